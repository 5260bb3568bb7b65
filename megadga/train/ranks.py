"""Process groups, and decisions that all ranks share.

If one rank fails, the others wait in their next collective until the time-out. So work on rank 0,
or on each rank, ends with an exchange of the result or the failure.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
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
from megadga.errors import MegadgaError, TrainingError
from megadga.launch.ranks import (
    RankEnvironment,
    check_visible_devices,
    interface_variables,
    read_deadline_s,
    read_ranks,
)
from megadga.launch.supervision import killed_after
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
    result, failure = ranks.object_of_first_rank((mine[0], remote_error(0, mine[1])))
    _raise(mine[1], failure)
    return result


def on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Run ``work`` on every rank and return all results, in order of rank. Collective.

    Raises:
        MegadgaError: If ``work`` raises it; on every rank, that of the lowest rank that failed.
        OtherRankError: On the other ranks, if ``work`` raises any other exception.
    """
    result, error = _attempt(work)
    everyone = ranks.objects((result, remote_error(ranks.rank, error)))
    _raise(error, next((remote for _, remote in everyone if remote is not None), None))
    return [each for each, _ in everyone]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  (raised again after the exchange)
        return None, error


def remote_error(rank: int, error: Exception | None) -> Exception | None:
    """Return the exception for the other ranks to raise for that of a rank, None for None."""
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


class StepFlag(Protocol):
    """Something that one rank knows and all must, added in the all-reduce of a step."""

    def own(self) -> float:
        """Return this rank's contribution to the sum, 1 or 0."""
        ...

    def update_from_sum(self, total: float) -> None:
        """Update from the sum over all ranks, which is equal on every rank."""
        ...


@final
class CollectiveFlag:
    """Whether a flag was raised on any rank; a ``StepFlag``.

    Args:
        own: Whether this rank's flag is raised.
    """

    def __init__(self, own: Callable[[], bool]) -> None:
        self._own = own
        self._raised = False

    def own(self) -> float:
        """Return this rank's contribution to the sum: 1 if its flag is raised, else 0."""
        return float(self._own())

    def update_from_sum(self, total: float) -> None:
        """Update from the sum over all ranks, which is equal on every rank."""
        self._raised = total > 0.0

    def raised(self) -> bool:
        """Return whether any rank's flag was raised at the last sum; equal on every rank."""
        return self._raised


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


class StepTerm(Protocol):
    """Numbers of every rank that are added in the all-reduce of a step."""

    size: int
    """How many, on every rank."""

    def own(self, batch: Batch) -> FloatArray:
        """Return this rank's, shape ``(size,)``: integers whose sum is below 2^53."""
        ...

    def update_from_sum(self, batch: Batch, total: FloatArray) -> None:
        """Take the sums over all ranks, which are equal on every rank."""
        ...


@final
class StepAllReduce:
    """Gathers per-sequence values of all ranks, and flags, in one all-reduce.

    Args:
        ranks: The data-parallel ranks.
        flags: Requests to stop and the like, updated at every call.
        terms: Further numbers, summed at every call.
    """

    def __init__(
        self,
        ranks: DataParallelRanks,
        *flags: StepFlag,
        terms: Sequence[StepTerm] = (),
    ) -> None:
        self._ranks = ranks
        self._flags = flags
        self._terms = tuple(terms)

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """Return the values of every sequence of the global batch. One collective.

        Args:
            batch: The batch, with the rows of this rank's sequences.
            own: Values of this rank's sequences, each of shape ``(accumulation, micro batch)``.

        Returns:
            For each of ``own`` the values of all ranks, shape ``(B,)``, equal bits on every rank.
        """
        size = batch.indices.global_domains.size
        num_values = len(own) * size
        numbers = np.zeros(num_values + len(self._flags))
        for begin, part in zip(range(0, num_values, size), own, strict=True):
            numbers[begin + batch.indices.rows] = part.double().cpu().numpy()
        numbers[num_values:] = [flag.own() for flag in self._flags]
        added = [term.own(batch) for term in self._terms]
        merged, *totals = np.split(
            self._ranks.merged(np.concatenate([numbers, *added])),
            np.cumsum([numbers.size, *(term.size for term in self._terms)])[:-1],
        )
        for flag, total in zip(self._flags, merged[num_values:], strict=True):
            flag.update_from_sum(total)
        for term, total in zip(self._terms, totals, strict=True):
            term.update_from_sum(batch, total)
        return tuple(merged[:num_values].reshape(len(own), size))


_AFTER_DEADLINE_S = 60.0
"""Seconds in which a rank can still say itself that its time is over."""


@contextmanager
def process_group() -> Generator[timedelta]:
    """Initialise the default process group, of one rank without a launcher. Collective.

    An existing group is used, and not destroyed.

    After an error the group is not destroyed, as that would wait for the other ranks; the launcher
    ends them. The exception is an error that every rank raises.

    Yields:
        The time-out of collectives, for groups that are created later.

    Raises:
        ConfigError: If the launcher's variables are invalid, the number of ranks is not the
            requested one, or there is no device for this rank.
    """
    formed_here = not dist.is_initialized()
    deadline = timedelta(seconds=read_deadline_s(os.environ))
    if formed_here:
        _export_variables(read_ranks(os.environ))
    accelerator: Any = get_accelerator()
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() != "cpu":
        check_visible_devices(local_rank, accelerator.device_count(), os.environ)
    _prepend_own_programs()
    # Where a rank was killed, another would wait for its shared memory or its lock without end.
    with killed_after(deadline.total_seconds() + _AFTER_DEADLINE_S):
        deepspeed.init_distributed(timeout=deadline)
    limit_waiting(deadline)
    accelerator.set_device(local_rank)
    _share_cores()
    _remove_shared_buffer()
    try:
        yield deadline
    except TrainingError:  # raised by every rank
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
    (_SHARED_MEMORY / f"{_buffers()}_{address}_{port}_{dist.get_rank()}").unlink(missing_ok=True)
    if os.environ["LOCAL_RANK"] == "0":
        remove_abandoned_buffers(_SHARED_MEMORY)


_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (where shm_open keeps it)


_OPENING_S = 10.0
"""Age below which a segment may belong to ranks that have not all mapped it yet."""


def _buffers() -> str:
    """Return how the names of this user's segments begin."""
    return f"deepspeed_allreduce_buffer_{os.getuid()}"


def remove_abandoned_buffers(folder: Path) -> None:
    """Unlink segments of this user's that no process has mapped.

    Ranks leave them that are killed between opening and unlinking them.

    Args:
        folder: Where shared memory is.
    """
    with suppress(OSError):  # they only take memory
        found = [
            path
            for path in folder.glob(f"{_buffers()}_*")
            if time.time() - path.stat().st_mtime > _OPENING_S
        ]
        mapped = _mapped_files(f"{folder}/{_buffers()}") if found else set[str]()
        for path in found:
            if str(path) not in mapped:
                path.unlink(missing_ok=True)


def _mapped_files(prefix: str) -> set[str]:
    """Return files that processes of this machine have mapped, as far as this one may know."""
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            lines = maps.read_text(errors="replace").splitlines()
            mapped |= {line[line.index(prefix) :] for line in lines if prefix in line}
    return mapped
