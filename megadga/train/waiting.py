"""How long a run waits for its file system, and what it says meanwhile."""

import time
from dataclasses import dataclass
from typing import Any, final

from megadga.errors import MegadgaError


class StorageError(MegadgaError):
    """The file system of a run did not work for longer than the run may wait."""


class PauseInterruptedError(StorageError):
    """A stop was requested while the run waited for its file system."""


@dataclass(frozen=True)
class Waiting:
    """How long a run waits for its file system. All times in seconds, above 0.

    Attributes:
        pauses: Whether work that failed with an ``OSError`` is tried again.
        limit_s: Time after which the run ends although it ``pauses``, or while no rank makes any
            progress; None: never.
        limit_key: The user's name for this limit.
        first_delay_s: Time between the first two attempts, doubled with each.
        max_delay_s: Longest time between two attempts.
        report_after_s: Time after which slow work is reported, doubled with each report.
        round_s: Time between two exchanges of the ranks.
    """

    pauses: bool
    limit_s: float | None
    limit_key: str
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0
    report_after_s: float = 30.0
    round_s: float = 1.0


@dataclass(frozen=True)
class Amount:
    """How much of some work is done.

    Attributes:
        done: Bytes written.
        total: Bytes to write; 0 where there are few.
    """

    done: int = 0
    total: int = 0


@final
class Slowness:
    """Says when an attempt is slow, and when it makes no progress.

    Args:
        what: The work, for messages.
        waiting: How long the run waits.
        since: When the attempt began, by ``time.monotonic``.
    """

    def __init__(self, what: str, waiting: Waiting, *, since: float) -> None:
        self._what = what
        self._waiting = waiting
        self._since = since
        self._report_after_s = waiting.report_after_s
        self._done = 0
        self._progressed = time.monotonic()

    def line(self, amount: Amount, slowest: str) -> str | None:
        """Return a line about a slow attempt when it is time for one.

        Args:
            amount: How much all ranks have done.
            slowest: The rank that has most left to do.
        """
        now = time.monotonic()
        if amount.done > self._done:
            self._done, self._progressed = amount.done, now
        seconds = now - self._since
        if seconds < self._report_after_s:
            return None
        self._report_after_s = 2 * seconds
        done, total = format_bytes(amount.done), format_bytes(amount.total)
        of = f", {done} of about {total}" if amount.total else ""
        return f"{self._what} has taken {seconds:.0f} s so far{of}; waiting for {slowest}"

    def too_long(self) -> str | None:
        """Return an error if nothing was written for too long, None otherwise."""
        seconds, limit_s = time.monotonic() - self._progressed, self._waiting.limit_s
        if limit_s is None or seconds < limit_s:
            return None
        return (
            f"{self._what}: expected progress within {limit_s:.0f} s "
            f"({self._waiting.limit_key}), found none"
        )


@final
class Pause:
    """The attempts at work that fails.

    Args:
        what: The work, for messages.
        waiting: How long the run waits.
    """

    def __init__(self, what: str, waiting: Waiting) -> None:
        self.delay_s = waiting.first_delay_s / 2
        self._what = what
        self._waiting = waiting
        self._begun: float | None = None
        self._attempts = 0
        self._error = ""

    @property
    def seconds(self) -> float:
        """Seconds since the first failure, 0 without one."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def failed_again(self, error: str) -> None:
        """Count an attempt that failed."""
        self._begun = time.monotonic() if self._begun is None else self._begun
        self.delay_s = min(self.delay_s * 2, self._waiting.max_delay_s)
        self._attempts += 1
        self._error = error

    def line(self, space: str) -> str:
        """Return a line about the failure and what happens next."""
        limit_s = self._waiting.limit_s
        left_s = None if limit_s is None else max(limit_s - self.seconds, 0.0)
        until = (
            "it works or a stop is requested"
            if left_s is None
            else (f"it works, a stop is requested or {left_s / 60:.3g} minutes have passed")
        )
        return (
            f"paused: {self._what}: {self._error}{space}; "
            f"tries again in {self.delay_s:.0f} s, until {until}"
        )

    def interrupted(self) -> PauseInterruptedError:
        """Return the error for a stop that was requested."""
        return PauseInterruptedError(f"{self._what}: {self._error}; a stop was requested")

    def too_long(self) -> str | None:
        """Return an error if the pause has lasted for too long, None otherwise."""
        limit_s = self._waiting.limit_s
        if limit_s is None or self.seconds < limit_s:
            return None
        return (
            f"{self._what}: {self._error}; waited for {self.seconds / 60:.3g} minutes "
            f"({self._waiting.limit_key})"
        )

    def event(self) -> dict[str, Any] | None:
        """Return the record of a pause that has ended; None if there was none."""
        if self._begun is None:
            return None
        return {
            "event": "paused",
            "what": self._what,
            "error": self._error,
            "attempts": self._attempts + 1,
            "seconds": round(self.seconds, 3),
        }


def format_space(needed: int, free: int | None) -> str:
    """Return the end of a message: how much space is needed, and is free, if that is known."""
    parts = [f"about {format_bytes(needed)} needed"] if needed > 0 else []
    parts += [] if free is None else [f"{format_bytes(free)} free"]
    return f" ({', '.join(parts)})" if parts else ""


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest unit that it has at least one of: ``3.1 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
