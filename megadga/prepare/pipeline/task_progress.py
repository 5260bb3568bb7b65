"""How far a task is, for whoever waits for it elsewhere. Knows amounts, and no task."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import final

WRITE_INTERVAL_S = 0.5


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
