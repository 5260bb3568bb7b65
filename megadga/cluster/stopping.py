"""The wish that a run should save and end. Knows signals and a file, and no run."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self, final

from megadga.cluster.operators import remove_own_locks
from megadga.cluster.ranks import rank_to_tell
from megadga.cluster.signals import taken

STOP_FILE = "MEGADGA_STOP_FILE"
"""Variable with the path of a file by which a launcher asks for a stop, on any machine."""

STOPPED = 75
"""Exit code of a run that was asked to stop and has saved: EX_TEMPFAIL, start it again."""
LOOK_INTERVAL_S = 1.0
"""Seconds between looks for a launcher's file: it may lie on a network's file system."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@final
class StopSignal:
    """Remembers that this process was asked to end, so that it can do so at a step's boundary.

    While it is entered, SIGTERM, SIGUSR1 and SIGINT only set ``requested``; a second SIGINT ends
    the process at once. Entered on the main thread, before anything slow is imported: schedulers
    send signals up to a minute early.

    Args:
        file: Asks as well when it exists, which is looked at every ``LOOK_INTERVAL_S``; None:
            signals alone.
        before_end: Called before a second SIGINT ends the process.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        before_end: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._before_end = before_end
        self._clock = clock
        self._look_at = clock()
        self._signalled = False
        self._interrupted = False
        self._taking = ExitStack()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return one that knows the launcher's file, if there is a launcher that has one.

        The first rank alone looks for it: the others hear of it with the first step that follows.
        """
        path = environment.get(STOP_FILE)
        return cls(
            None if path is None or rank_to_tell(environment) else Path(path),
            before_end=lambda: remove_own_locks(environment),
        )

    def requested(self) -> bool:
        """Return whether this process was asked to stop."""
        if not self._signalled and self._file is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_INTERVAL_S
            self._signalled = self._file.exists()
        return self._signalled

    def __enter__(self) -> Self:
        self._taking.enter_context(taken(_SIGNALS, self._take))
        return self

    def __exit__(self, *exception: object) -> None:
        self._taking.close()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            self._before_end()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._signalled = True
