"""Work on the run's file system: in background threads, in rounds that all ranks share.

A file system may be full, read-only, slow, or fail, on any of the ranks. So that no rank waits in
a collective until its time-out, each works in a thread of its own, and the ranks exchange how far
they are about once a second. What has failed is raised on every rank, or tried again until it
works.
"""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, final

from megadga.train.ranks import Ranks, remote_error
from megadga.train.waiting import (
    Amount,
    Pause,
    Slowness,
    StorageError,
    Waiting,
    format_space,
)

T = TypeVar("T")


@final
class Task(Generic[T]):
    """Work of one rank, in a background thread.

    Args:
        what: The work, for messages, for example ``checkpoint of step 500``.
        work: Can be called again after an ``OSError``.
        amount: Returns how much of it is done; called while it runs.
        folder: Where it writes.
    """

    def __init__(
        self, what: str, work: Callable[[], T], *, amount: Callable[[], Amount], folder: Path
    ) -> None:
        self.what = what
        self.amount = amount
        self.begun = time.monotonic()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.free: int | None = None
        self._work = work
        self._folder = folder
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether the last attempt has ended, with or without an error."""
        return self._ended.is_set()

    def start(self) -> None:
        """Start an attempt."""
        self.error = self.free = None
        self._ended.clear()
        # A daemon: if another rank dies, this one can end though its file system hangs.
        threading.Thread(target=self._attempt, name="megadga-storage", daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of the attempt, at most ``timeout_s`` seconds."""
        self._ended.wait(timeout_s)

    def _attempt(self) -> None:
        try:
            self.result = self._work()
        except OSError as error:
            self.error, self.free = error, _free_bytes(self._folder)
        except BaseException as error:  # noqa: BLE001  (raised in the main thread)
            self.error = error
        finally:
            self._ended.set()


@dataclass(frozen=True)
class _Status:
    """What a rank says of its task."""

    ended: bool
    result: Any
    error: Exception | None
    amount: Amount
    host: str
    free: int | None
    too_long: str | None


@final
class Storage:
    """Runs tasks on the run's file system on all ranks.

    Args:
        folder: The run's folder.
        ranks: All ranks.
        waiting: How long the run waits.
        stop_requested: Whether this rank was asked to stop, which ends a pause.
        report: Called on rank 0 with a line for the user.
        advance: Called in every round: ranks that wait together are not stuck.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ranks: Ranks,
        waiting: Waiting,
        stop_requested: Callable[[], bool],
        report: Callable[[str], None],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.ranks = ranks
        self._folder = folder
        self._waiting = waiting
        self._stop_requested = stop_requested
        self._advance = advance
        self._report = report if ranks.rank == 0 else _say_nothing
        self._events: list[dict[str, Any]] = []

    def take_events(self) -> list[dict[str, Any]]:
        """Return the records of pauses that have ended since the last call."""
        events, self._events = self._events, []
        return events

    def first(self, what: str, work: Callable[[], T]) -> T:
        """Run work on rank 0 and return its result on every rank; see ``finish``. Collective."""
        own: Callable[[], Any] = work if self.ranks.rank == 0 else _do_nothing
        return self.every(what, own)[0]

    def every(self, what: str, work: Callable[[], T]) -> list[T]:
        """Run work on every rank and return all results; see ``finish``. Collective."""
        return self.finish(self.start(what, work))

    def start(
        self, what: str, work: Callable[[], T], *, amount: Callable[[], Amount] = Amount
    ) -> Task[T]:
        """Start work on this rank and return at once; every rank passes it to ``finish`` later."""
        task = Task(what, work, amount=amount, folder=self._folder)
        task.start()
        return task

    def finish(self, task: Task[T]) -> list[T]:
        """Wait for a task that every rank has started; return all results in order of rank.

        Collective. Slow tasks are reported. If one fails, the run pauses where it may: all ranks
        wait, and those that failed try again.

        Raises:
            StorageError: If the run has waited for too long; on every rank.
            PauseInterruptedError: If a stop was requested in a pause; on every rank.
            MegadgaError: If a task raises it; on every rank.
            OtherRankError: On the other ranks, if a task raises any other exception; an
                ``OSError`` only if the run does not pause.
        """
        pause = Pause(task.what, self._waiting)
        begun = task.begun
        while True:
            statuses = self._wait_for_end(task, since=begun)
            failed = [rank for rank, status in enumerate(statuses) if status.error is not None]
            if not failed:
                break
            self._check_may_pause(task, statuses)
            pause.failed_again(_describe(failed[0], statuses[failed[0]]))
            self._wait_for_retry(statuses, pause)
            begun = time.monotonic()
            if task.error is not None:
                task.start()
        if (event := pause.event()) is not None:
            self._events.append(event)
        return [status.result for status in statuses]

    def _wait_for_end(self, task: Task[T], *, since: float) -> list[_Status]:
        """Wait until the attempts of all ranks have ended. Collective."""
        slow = Slowness(task.what, self._waiting, since=since)
        while True:
            self._advance()
            task.wait(self._waiting.round_s)
            statuses: list[_Status] = self.ranks.objects(self._status(task, slow.too_long()))
            if all(status.ended for status in statuses):
                return statuses
            if statuses[0].too_long is not None:
                raise StorageError(statuses[0].too_long)
            rank = max(range(len(statuses)), key=lambda rank: _left(statuses[rank]))
            line = slow.line(_total(statuses), f"rank {rank} on {statuses[rank].host}")
            if line is not None:
                self._report(line)

    def _status(self, task: Task[T], too_long: str | None) -> _Status:
        ended, error = task.ended, task.error
        if error is not None and not isinstance(error, Exception):
            raise error
        sent = error if isinstance(error, OSError) else remote_error(self.ranks.rank, error)
        return _Status(
            ended=ended,
            result=task.result if ended and error is None else None,
            error=sent,
            amount=task.amount(),
            host=socket.gethostname(),
            free=task.free,
            too_long=too_long,
        )

    def _check_may_pause(self, task: Task[T], statuses: Sequence[_Status]) -> None:
        """Raise what has failed, unless the run pauses for all of it."""
        errors = [status.error for status in statuses if status.error is not None]
        if self._waiting.pauses and all(isinstance(error, OSError) for error in errors):
            return
        if task.error is not None:
            raise task.error
        rank, error = next((r, s.error) for r, s in enumerate(statuses) if s.error is not None)
        raise (remote_error(rank, error) or error) if isinstance(error, OSError) else error

    def _wait_for_retry(self, statuses: Sequence[_Status], pause: Pause) -> None:
        """Wait until the next attempt. Collective.

        Rank 0's clock decides, and anybody's request to stop.
        """
        amount, free = _total(statuses), [s.free for s in statuses if s.free is not None]
        until = time.monotonic() + pause.delay_s
        space = format_space(amount.total - amount.done, min(free, default=None))
        self._report(pause.line(space))
        while True:
            self._advance()
            over = time.monotonic() >= until
            signs = self.ranks.objects((self._stop_requested(), over, pause.too_long()))
            if any(stop for stop, _, _ in signs):
                raise pause.interrupted()
            _, over, too_long = signs[0]
            if too_long is not None:
                raise StorageError(too_long)
            if over:
                return
            time.sleep(max(min(self._waiting.round_s, until - time.monotonic()), 0.0))


def _describe(rank: int, status: _Status) -> str:
    error = status.error
    assert isinstance(error, OSError)
    place = "" if error.filename is None else f"{error.filename}: "
    return f"rank {rank} on {status.host}: {place}{error.strerror or error}"


def _total(statuses: Sequence[_Status]) -> Amount:
    return Amount(
        sum(status.amount.done for status in statuses),
        sum(status.amount.total for status in statuses),
    )


def _left(status: _Status) -> tuple[bool, int]:
    return not status.ended, status.amount.total - status.amount.done


def _free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free where a folder is, None if that is not known."""
    try:
        existing = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        return shutil.disk_usage(existing).free
    except OSError:
        return None


def _do_nothing() -> None:
    """Work of ranks that have none."""


def _say_nothing(_: str) -> None:
    """Reports of ranks that make none."""
