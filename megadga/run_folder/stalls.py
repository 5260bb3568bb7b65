"""Ends a run in which a rank makes no progress, after every rank has written its stacks."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, final

from megadga.run_folder.failures import has_failure, write_failure
from megadga.run_folder.stacks import (
    StackReport,
    describe_stall,
    format_report,
    format_threads,
    has_stack,
    locate_main_thread,
    remove_stack,
    stack_path,
)
from megadga.terminal import release_rows

STALLED = 1
"""Exit code of a rank without progress, the fault handler's too. Starting again may help."""


_LONGEST_WAIT_S = 20.0
"""For stacks of other ranks, which may have advanced a little longer."""


_POLL_S = 0.1


@dataclass(frozen=True)
class _Progress:
    """What a rank does.

    Attributes:
        step: The optimizer step, from 1.
        phase: In a few words.
        at_s: When it last advanced, by the clock.
    """

    step: int
    phase: str
    at_s: float


@final
class StallWatch:
    """Watches one rank's progress on a thread of its own.

    The thread runs while the main thread waits in a collective. Should a call hold the
    interpreter's lock, Python's fault handler, which needs none, writes the stacks somewhat later
    and ends the process.

    A rank that has made no progress writes its stacks, waits for those of the others, and ends its
    process with `STALLED`. The lowest rank that could write reports which ranks are behind.

    Args:
        output: The run's folder.
        rank: This rank.
        hosts: The machine of each rank.
        limit_s: Seconds without progress, above 0; None: nothing is watched.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        output: Path,
        *,
        rank: int,
        hosts: Sequence[str],
        limit_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._rank = rank
        self._hosts = tuple(hosts)
        self._limit_s = limit_s
        self._clock = clock
        self._now = _Progress(1, "starting", clock())
        self._ended = threading.Event()
        self._file: TextIO | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open this rank's file, and watch from here on.

        Raises:
            OSError: If the file cannot be written.
        """
        if self._limit_s is None:
            return
        path = stack_path(self._output, self._rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Open from the start: without the interpreter's lock nothing can be opened.
        self._file = path.open("w", encoding="utf-8")
        self.advance()
        arguments = (self._file, self._limit_s)
        self._thread = threading.Thread(
            target=self._run, args=arguments, name="stalls", daemon=True
        )
        self._thread.start()

    def enter(self, step: int, phase: str) -> None:
        """Take note that the rank has come to a phase of an optimizer step (from 1)."""
        self._now = _Progress(step, phase, self._clock())

    def advance(self) -> None:
        """Take note that the rank has made progress in its phase."""
        now = self._now
        self._now = _Progress(now.step, now.phase, self._clock())

    def close(self) -> None:
        """Stop watching, and remove this rank's empty file."""
        if self._file is None or self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._file.close()
        remove_stack(self._output, self._rank)

    def _run(self, file: TextIO, limit_s: float) -> None:
        wait_s = min(_LONGEST_WAIT_S, limit_s / 2)
        poll_s = min(1.0, wait_s / 4)
        while not self._ended.wait(poll_s):
            idle_s = self._clock() - self._now.at_s
            if idle_s >= limit_s:
                self._end(file, idle_s, wait_s)
            else:
                # Before other ranks report, and launchers end this one.
                left_s = limit_s - idle_s + 0.8 * wait_s
                faulthandler.dump_traceback_later(left_s, file=file, exit=True)
        faulthandler.cancel_dump_traceback_later()

    def _end(self, file: TextIO, idle_s: float, wait_s: float) -> None:
        """Write the stacks, wait for those of other ranks, report, and end the process."""
        faulthandler.cancel_dump_traceback_later()
        release_rows(sys.stderr, os.environ)
        now = self._now
        at, waits = locate_main_thread()
        host = self._hosts[self._rank]
        report = StackReport(self._rank, host, os.getpid(), now.step, now.phase, idle_s, at, waits)
        with suppress(OSError):  # a full disk must not keep the process alive
            file.write(format_report(report, threads=format_threads()))
            file.close()  # so that other machines see it
        time.sleep(wait_s)
        said = f"no progress for {_duration(idle_s)}"
        paths = (stack_path(self._output, rank) for rank in range(self._rank))
        lowest = next((rank for rank, path in enumerate(paths) if has_stack(path)), None)
        if lowest is not None:
            self._wait_for_report(lowest, wait_s)
        else:
            said = f"{said}: {describe_stall(self._output, self._hosts)}"
            with suppress(OSError):  # the terminal may be closed
                print(f"{self._output}: {said}", file=sys.stderr, flush=True)
        write_failure(self._output, rank=self._rank, message=said)
        os._exit(STALLED)

    def _wait_for_report(self, rank: int, wait_s: float) -> None:
        """Wait until a rank has reported: launchers show what was recorded first."""
        until = time.monotonic() + wait_s
        while time.monotonic() < until and not has_failure(self._output, rank=rank):
            time.sleep(_POLL_S)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60.0 else f"{seconds:.1f} s"
