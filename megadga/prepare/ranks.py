"""The ranks of MPI as workers, on any number of machines. Knows no work."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from megadga.errors import ConfigError
from megadga.prepare.workers import Workers, open_processes

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Where the ``mpirun`` of one MPI or another says how many ranks there are."""


@contextmanager
def open_workers(count: int | None) -> Generator[Workers | None]:
    """Open the workers that this program was started with.

    Under ``mpirun`` with several ranks, the first hands out work and the others do it: they get
    None, after all is done, and should end. Otherwise processes of this machine work.

    Args:
        count: Processes, as ``open_processes`` has it. Under ``mpirun`` it must be None.

    Raises:
        ConfigError: If ``count`` is out of range, or MPI's ranks cannot see each other.
    """
    ranks = started_ranks(os.environ)
    if ranks == 1:
        with open_processes(count) as processes:
            yield processes
        return
    if count is not None:
        raise ConfigError(f"workers: expected none under mpirun, whose ranks work, found {count}")
    with _ranks(ranks) as workers:
        yield workers


def started_ranks(environment: Mapping[str, str]) -> int:
    """Return how many ranks ``mpirun`` has started, 1 if this is none of its."""
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
