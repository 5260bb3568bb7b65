"""How far a build is, over all who work on it. Knows stages and amounts, and no bar."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, final

WRITE_INTERVAL_S = 0.5


Stage = Literal["tokenizing", "writing"]
"""What a build is at: tokenizing, counted in bytes of input, or writing, in tokens."""


class Progress(Protocol):
    """Where a build says how far it is."""

    def __call__(self, stage: Stage, done: int, total: int) -> object:
        """Tell of one stage.

        Args:
            stage: What is done.
            done: So far, over all workers; what was done before a build was killed counts.
            total: The same from the first call of a stage to its last.
        """
        ...


def no_progress(stage: Stage, done: int, total: int) -> None:
    """Tell nobody."""


@final
class TaskProgress:
    """What one worker has done of the task it is at, in a file that whoever waits may read.

    Args:
        path: The file; it is gone once the task has ended.
        clock: Seconds since any fixed moment.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._done = 0
        self._written_at = clock()

    def advance(self, amount: int) -> None:
        """Count some more; the file follows twice a second."""
        self._done += amount
        if (now := self._clock()) - self._written_at >= WRITE_INTERVAL_S:
            self._path.write_text(str(self._done))
            self._written_at = now

    def end(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> int:
    """Return what a task has done so far; 0 if nobody is at it, or has said anything yet."""
    try:
        return int(path.read_text() or 0)  # empty while it is being written
    except FileNotFoundError:
        return 0
