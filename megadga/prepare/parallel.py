"""Work spread over processes, its results in order. Knows nothing of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Self, TypeVar

from megadga.errors import ConfigError, MegadgaError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class OrderedPool:
    """Worker processes that live as long as the ``with`` block.

    They are spawned, not forked: the caller may hold threads, and the program's main module must
    be importable without effect. One worker means no process at all: the work is done in place.

    Args:
        workers: Processes, at least 1.

    Raises:
        ConfigError: If ``workers`` is below 1.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {workers}")
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            self._executor = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map(
        self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
    ) -> Iterator[ResultT]:
        """Yield ``function(item)`` in the order of ``items``, of which few are taken ahead.

        Args:
            function: Picklable, as are the items and the results.
            items: At most two a worker wait for their result to be asked for.

        Raises:
            MegadgaError: If a process died. What ``function`` raises surfaces as it is.
        """
        if self._executor is None:
            yield from map(function, items)
            return
        pending: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                pending.append(self._executor.submit(function, item))
                if len(pending) >= 2 * self._workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise MegadgaError(
                f"workers: expected {self._workers} to live, found one dead, most often for want "
                "of memory: use fewer"
            ) from error
