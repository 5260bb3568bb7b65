"""Process groups, and decisions that all ranks share.

If one rank fails, the others wait in their next collective until the time-out. So work on rank 0,
or on each rank, ends with an exchange of the result or the failure.
"""

import os
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar, final

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from megadga.arrays import FloatArray
from megadga.errors import DivergedError, MegadgaError
from megadga.launch.ranks import RankEnvironment, interface_variables, read_deadline_s, read_ranks
from megadga.plugin import Batch
from megadga.probes.engine import limit_waiting

T = TypeVar("T")


class Ranks(Protocol):
    """All ranks of a run, for exchanging small Python objects."""

    @property
    def rank(self) -> int:
        """This process's rank, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def object_of_first_rank(self, value: Any) -> Any:
        """Broadcast rank 0's value; values of other ranks are ignored. Collective."""
        ...

    def objects(self, value: Any) -> list[Any]:
        """Gather every rank's value on all ranks, in order of rank. Collective."""
        ...


class OtherRankError(RuntimeError):
    """Another rank failed with an error that is not a ``MegadgaError``."""


def on_first_rank(ranks: Ranks, work: Callable[[], T]) -> T:
    """Run ``work`` on rank 0 and return its result on every rank. Collective.

    Used for reads as well: on a network file system other machines may see an outdated state for
    up to a minute.

    Raises:
        MegadgaError: If ``work`` raises it; on every rank.
        OtherRankError: On the other ranks, if ``work`` raises any other exception.
    """
    mine: tuple[Any, Exception | None] = (None, None)
    if ranks.rank == 0:
        mine = _attempt(work)
    result, failure = ranks.object_of_first_rank((mine[0], _as_remote_error(0, mine[1])))
    _raise(mine[1], failure)
    return result


def on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Run ``work`` on every rank and return all results, in order of rank. Collective.

    Raises:
        MegadgaError: If ``work`` raises it; on every rank, that of the lowest rank that failed.
        OtherRankError: On the other ranks, if ``work`` raises any other exception.
    """
    result, error = _attempt(work)
    everyone = ranks.objects((result, _as_remote_error(ranks.rank, error)))
    _raise(error, next((remote for _, remote in everyone if remote is not None), None))
    return [each for each, _ in everyone]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  (raised again after the exchange)
        return None, error


def _as_remote_error(rank: int, error: Exception | None) -> Exception | None:
    """Return the exception for the other ranks to raise."""
    if error is None or isinstance(error, MegadgaError):
        return error
    return OtherRankError(f"rank {rank} failed: {type(error).__name__}: {error}")


def _raise(mine: Exception | None, remote: Exception | None) -> None:
    if mine is not None:
        raise mine
    if remote is not None:
        raise remote


@final
class CollectiveStop:
    """Combines the ranks' requests to stop, as a signal may reach them at different steps.

    The flag is added to an all-reduce that every step makes anyway.

    Args:
        requested: Whether this rank was asked to stop.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested
        self._agreed = False

    def own(self) -> float:
        """Return this rank's contribution to the sum: 1 if it was asked to stop, else 0."""
        return float(self._requested())

    def update_from_sum(self, total: float) -> None:
        """Update from the sum over all ranks, which is equal on every rank."""
        self._agreed = self._agreed or total > 0.0

    def agreed(self) -> bool:
        """Return whether any rank had been asked to stop at the last sum; equal on every rank."""
        return self._agreed


class CollectiveFlag(Protocol):
    """Something that one rank knows and all must, which ``StepAllReduce`` tells them."""

    def own(self) -> float:
        """Return this rank's contribution to the sum, 1 or 0."""
        ...

    def update_from_sum(self, total: float) -> None:
        """Update from the sum over all ranks, which is equal on every rank."""
        ...


class DataParallelRanks(Protocol):
    """The data-parallel ranks, with the collective that training uses."""

    @property
    def rank(self) -> int:
        """This process's rank, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def merged(self, numbers: FloatArray) -> FloatArray:
        """Sum arrays that are exact under addition; equal bits on every rank. Collective.

        Each element is non-zero on at most one rank, or an integer. All arrays have the same
        shape.
        """
        ...


@final
class StepAllReduce:
    """Gathers per-sequence values of all ranks, and flags such as a stop, in one all-reduce.

    Args:
        ranks: The data-parallel ranks.
        flags: Updated at every call.
    """

    def __init__(self, ranks: DataParallelRanks, *flags: CollectiveFlag) -> None:
        self._ranks = ranks
        self._flags = flags

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """Return the values of every sequence of the global batch. One collective.

        Args:
            batch: The batch, with the rows of this rank's sequences.
            own: Values of this rank's sequences, each of shape ``(accumulation, micro batch)``.

        Returns:
            For each of ``own`` the values of all ranks, shape ``(B,)``, equal bits on every rank.
        """
        size = batch.indices.global_domains.size
        end = len(own) * size
        numbers = np.zeros(end + len(self._flags))
        for begin, part in zip(range(0, end, size), own, strict=True):
            numbers[begin + batch.indices.rows] = part.double().cpu().numpy()
        numbers[end:] = [flag.own() for flag in self._flags]
        merged = self._ranks.merged(numbers)
        for flag, total in zip(self._flags, merged[end:].tolist(), strict=True):
            flag.update_from_sum(total)
        return tuple(merged[:end].reshape(len(own), size))


@contextmanager
def process_group() -> Generator[timedelta]:
    """Initialise the default process group, of one rank without a launcher. Collective.

    An existing group is used, and not destroyed.

    After an error the group is not destroyed, as that would wait for the other ranks; the launcher
    ends them. The exception is an error that every rank raises.

    Yields:
        The time-out of collectives, for groups that are created later.

    Raises:
        ConfigError: If the launcher's variables are invalid, or the number of ranks is not the
            requested one.
    """
    formed_here = not dist.is_initialized()
    deadline = timedelta(seconds=read_deadline_s(os.environ))
    if formed_here:
        _export_variables(read_ranks(os.environ))
    _prepend_own_programs()
    deepspeed.init_distributed(timeout=deadline)
    limit_waiting(deadline)
    accelerator: Any = get_accelerator()
    accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    _share_cores()
    _remove_shared_buffer()
    try:
        yield deadline
    except DivergedError:  # raised by every rank
        if formed_here:
            destroy_process_group()
        raise
    if formed_here:
        destroy_process_group()


def _export_variables(ranks: RankEnvironment) -> None:
    """Export the variables that torch and DeepSpeed read from the environment."""
    os.environ |= ranks.variables()
    alone = ranks.world_size == 1 or ranks.master_address in ("127.0.0.1", "::1", "localhost")
    os.environ |= interface_variables(os.environ, master_address=ranks.master_address, alone=alone)


def destroy_process_group() -> None:
    """Destroy the process group, after a barrier. Collective.

    A thread of gloo releases a collective's tensors some time after the collective has completed;
    if the interpreter is shutting down by then, the process aborts. A barrier has no tensors, and
    after it those of earlier collectives are released.
    """
    dist.barrier()
    dist.destroy_process_group()


def _prepend_own_programs() -> None:
    """Put this environment's programs first in ``PATH``, for DeepSpeed's use of ``ninja``.

    With different versions of ninja, ranks started with and without an activated environment
    would consider each other's builds outdated and recompile the ops.
    """
    tools = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((tools, os.environ.get("PATH", os.defpath)))


def _share_cores() -> None:
    """Divide this machine's cores among its ranks, unless OMP_NUM_THREADS is set. Collective."""
    hosts = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // hosts.count(socket.gethostname())))


def _remove_shared_buffer() -> None:
    """Unlink the 69 MB shared-memory segment that ranks open under DeepSpeed's launcher.

    DeepSpeed never unlinks it. After the barrier every rank has it mapped; the memory is freed
    when they end. Collective.
    """
    dist.barrier()
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{dist.get_rank()}"
    Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108  (where shm_open keeps it)
