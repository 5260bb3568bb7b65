"""Runs tasks in this process, in worker processes, or on MPI ranks."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar, final

from megadga.errors import ConfigError, MegadgaError

ItemT = TypeVar("ItemT")


ResultT = TypeVar("ResultT")


POLL_S = 0.5


MAX_PROCESSES = 4096
"""Upper bound; each process takes about 50 MB."""


@final
class Workers:
    """Runs a function on many items, in this process or on an executor.

    Args:
        executor: The executor; None: this process, sequentially.
        count: Items that are worked on at the same time, at least 1.
    """

    def __init__(self, executor: Executor | None = None, *, count: int = 1) -> None:
        self._executor = executor
        self._count = count

    def map(
        self,
        function: Callable[[ItemT], ResultT],
        items: Sequence[ItemT],
        *,
        waiting: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[ItemT, ResultT]]:
        """Yield each item with its result as soon as there is one, in any order.

        Args:
            function: Picklable, as are items and results.
            items: Distributed dynamically.
            waiting: Called periodically until all items are done.

        Raises:
            MegadgaError: If a worker died. What ``function`` raises surfaces as it is.
        """
        if self._executor is None:
            for item in items:
                yield item, function(item)
                waiting()
            return
        remaining = iter(items)
        pending: dict[Future[ResultT], ItemT] = {}
        with self._watched(pending):
            while True:
                # A few ahead, to keep workers busy; no more, so that an error stops the rest.
                while (
                    len(pending) < 2 * self._count and (item := next(remaining, None)) is not None
                ):
                    pending[self._executor.submit(function, item)] = item
                if not pending:
                    return
                done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                waiting()
                for future in done:
                    yield pending.pop(future), future.result()

    def map_in_order(
        self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
    ) -> Iterator[ResultT]:
        """Yield the result of each item in the order of ``items``, of which few are taken ahead.

        Args:
            function: Picklable, as are items and results.
            items: At most two per worker wait for their result to be asked for.

        Raises:
            MegadgaError: If a worker died. What ``function`` raises surfaces as it is.
        """
        if self._executor is None:
            yield from map(function, items)
            return
        pending: deque[Future[ResultT]] = deque()
        with self._watched(pending):
            for item in items:
                pending.append(self._executor.submit(function, item))
                if len(pending) >= 2 * self._count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    @contextmanager
    def _watched(self, pending: Iterable[Future[Any]]) -> Generator[None]:
        """Report a dead worker, and cancel pending items when the block ends."""
        try:
            yield
        except BrokenProcessPool as error:
            raise MegadgaError(
                f"workers: expected {self._count} running, found one dead, most often for lack of "
                "memory: use fewer"
            ) from error
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def open_processes(count: int | None) -> Generator[Workers]:
    """Open workers on this machine: processes that end with the block, or when this one is killed.

    They are spawned, not forked: the caller may hold threads, and the program's main module must
    be importable without effect.

    Args:
        count: Processes, in [1, ``MAX_PROCESSES``]; 1: this one does the work. None: one per core.

    Raises:
        ConfigError: If ``count`` is out of range.
    """
    if count is not None and count < 1:
        raise ConfigError(f"workers: expected at least 1, found {count}")
    if count is not None and count > MAX_PROCESSES:
        raise ConfigError(f"workers: expected at most {MAX_PROCESSES}, found {count}")
    if (processes := count or os.cpu_count() or 1) == 1:
        yield Workers()
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_exit_with_parent
    ) as executor:
        executor.submit(os.getpid)  # processes start with the first submit
        yield Workers(executor, count=processes)


def _exit_with_parent() -> None:
    """Terminate this worker when its parent ends for any reason, or on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    threading.Thread(target=_exit_when_ready, args=(parent.sentinel,), daemon=True).start()


def _exit_when_ready(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Variables with the number of ranks in different MPI implementations."""


@contextmanager
def open_workers(count: int | None) -> Generator[Workers | None]:
    """Open workers: the other MPI ranks under ``mpirun``, else processes on this machine.

    Under ``mpirun`` with several ranks, rank 0 distributes the work. The other ranks get None
    after all work is done, and should exit.

    Args:
        count: Processes, as ``open_processes`` has it. Under ``mpirun`` it must be None.

    Raises:
        ConfigError: If ``count`` is out of range, or MPI's ranks cannot see each other.
    """
    ranks = mpi_world_size(os.environ)
    if ranks == 1:
        with open_processes(count) as processes:
            yield processes
        return
    if count is not None:
        raise ConfigError(f"workers: expected none under mpirun, whose ranks work, found {count}")
    with _ranks(ranks) as workers:
        yield workers


def mpi_world_size(environment: Mapping[str, str]) -> int:
    """Return the number of ranks started by ``mpirun``, 1 without it."""
    return next((int(environment[name]) for name in _SIZES if name in environment), 1)


@contextmanager
def _ranks(expected: int) -> Generator[Workers | None]:
    try:
        from mpi4py import MPI  # noqa: PLC0415  (starts MPI)
        from mpi4py.futures import MPICommExecutor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"mpirun: expected mpi4py to be installed (megadga[mpi]), found {error}"
        ) from error
    world: Any = MPI.COMM_WORLD
    if (found := world.Get_size()) != expected:
        raise ConfigError(
            f"mpirun: expected {expected} ranks, found {found}: mpi4py was built for another MPI "
            "than this mpirun is of"
        )
    # The stub says that it yields itself; it yields an executor on the first rank, else None.
    opened: Any = MPICommExecutor(world, root=0)
    with opened as executor:
        yield None if executor is None else Workers(executor, count=expected - 1)
