"""Process groups, and decisions that all ranks share.

A rank that fails alone leaves the others waiting in their next collective until the time-out. So
what rank 0 does for all, or each rank for itself, ends in an exchange of its result or failure.
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
    """All ranks of a run, as far as they exchange small values."""

    @property
    def rank(self) -> int:
        """This process's place among them, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Their number, at least 1."""
        ...

    def object_of_first_rank(self, value: Any) -> Any:
        """Return the first rank's value; the others' does not matter. Collective."""
        ...

    def objects(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of the ranks. Collective."""
        ...


class OtherRankError(RuntimeError):
    """Another rank has failed, with something that the user's files or options do not explain."""


def on_first_rank(ranks: Ranks, work: Callable[[], T]) -> T:
    """Have the first rank work; return its result on every rank. Collective.

    The first rank's reads decide for all: on a network's file system another machine may see an
    older state for a minute.

    Raises:
        MegadgaError: As the work does, on every rank.
        OtherRankError: On the other ranks, if the work raises anything else.
    """
    mine: tuple[Any, Exception | None] = (None, None)
    if ranks.rank == 0:
        mine = _attempt(work)
    result, failure = ranks.object_of_first_rank((mine[0], _as_told(0, mine[1])))
    _raise(mine[1], failure)
    return result


def on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Have every rank work; return all results, in the order of the ranks. Collective.

    Raises:
        MegadgaError: As the work does on the first rank that it fails on; on every rank.
        OtherRankError: On the other ranks, if the work raises anything else.
    """
    result, error = _attempt(work)
    everyone = ranks.objects((result, _as_told(ranks.rank, error)))
    _raise(error, next((told for _, told in everyone if told is not None), None))
    return [each for each, _ in everyone]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  (raised again, when the other ranks know of it)
        return None, error


def _as_told(rank: int, error: Exception | None) -> Exception | None:
    """Return what the other ranks raise."""
    if error is None or isinstance(error, MegadgaError):
        return error
    return OtherRankError(f"rank {rank} failed: {type(error).__name__}: {error}")


def _raise(mine: Exception | None, told: Exception | None) -> None:
    if mine is not None:
        raise mine
    if told is not None:
        raise told


@final
class CollectiveStop:
    """Brings the ranks to one answer, as a signal reaches them at different steps, or only one.

    It makes no sum of its own: what it adds travels with a sum that every step makes anyway.

    Args:
        requested: Whether this rank was asked to stop.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested
        self._agreed = False

    def own(self) -> float:
        """Return what this rank adds to a sum over the ranks: 1 if it was asked, else 0."""
        return float(self._requested())

    def update_from_sum(self, total: float) -> None:
        """Learn the sum of what every rank added, which is the same number on all."""
        self._agreed = self._agreed or total > 0.0

    def agreed(self) -> bool:
        """Return whether any rank had been asked at the last sum; the same on every rank."""
        return self._agreed


class DataParallelRanks(Protocol):
    """The data-parallel ranks, as far as training talks to them."""

    @property
    def rank(self) -> int:
        """This process's place, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def merged(self, numbers: FloatArray) -> FloatArray:
        """Sum what is 0 on all ranks but one, or whole; every rank gets the same bits. Collective.

        Every rank calls it, with arrays of one shape.
        """
        ...


@final
class StepAllReduce:
    """Brings together what each rank knows of its sequences, and whether it is to stop.

    Args:
        ranks: The data-parallel ranks.
        stop: Asked and told at every sum; None: nobody stops.
    """

    def __init__(self, ranks: DataParallelRanks, stop: CollectiveStop | None = None) -> None:
        self._ranks = ranks
        self._stop = stop

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """Return numbers of every sequence of the global batch. Collective: one sum in all.

        Args:
            batch: Says where this rank's sequences belong.
            own: Numbers of this rank's sequences, each of shape ``(accumulation, micro batch)``.

        Returns:
            For each of ``own`` those of all ranks, shape ``(B,)``, the same bits on every rank.
        """
        size = batch.indices.global_domains.size
        numbers = np.zeros(len(own) * size + 1)
        for begin, part in zip(range(0, len(own) * size, size), own, strict=True):
            numbers[begin + batch.indices.rows] = part.double().cpu().numpy()
        if self._stop is not None:
            numbers[-1] = self._stop.own()
        merged = self._ranks.merged(numbers)
        if self._stop is not None:
            self._stop.update_from_sum(merged[-1])
        return tuple(merged[:-1].reshape(len(own), size))


@contextmanager
def process_group() -> Generator[timedelta]:
    """Join the ranks that a launcher started; without a launcher, be the only one. Collective.

    A group that is there already is used, and left by who formed it.

    After an error the group is left to the launcher, which ends the other ranks: taking it down
    in good order would wait for them. Unless it is one that every rank has raised.

    Yields:
        How long ranks wait for each other: groups that are made later need telling.

    Raises:
        ConfigError: If what the launcher has set makes no sense, or there are other ranks than
            it was asked for.
    """
    formed_here = not dist.is_initialized()
    deadline = timedelta(seconds=read_deadline_s(os.environ))
    if formed_here:
        _tell_torch(read_ranks(os.environ))
    _prefer_own_tools()
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
            leave()
        raise
    if formed_here:
        leave()


def _tell_torch(ranks: RankEnvironment) -> None:
    """Put into the environment what torch and DeepSpeed look for there, and nowhere else."""
    os.environ |= ranks.variables()
    alone = ranks.world_size == 1 or ranks.master_address in ("127.0.0.1", "::1", "localhost")
    os.environ |= interface_variables(os.environ, master_address=ranks.master_address, alone=alone)


def leave() -> None:
    """Leave the process group together with the other ranks. Collective.

    A thread of gloo lets go of a collective's tensors some time after the collective is over, and
    if the interpreter is being torn down by then, the process is aborted. A barrier has no
    tensors, and by the time that it is over those before it are let go of.
    """
    dist.barrier()
    dist.destroy_process_group()


def _prefer_own_tools() -> None:
    """Let DeepSpeed's compiled ops be built by this environment's own ``ninja``.

    Another version on the search path would find its own build outdated, and ranks started with
    and without an activated environment would compile the ops anew, in turns.
    """
    tools = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((tools, os.environ.get("PATH", os.defpath)))


def _share_cores() -> None:
    """Give each rank of this machine its part of the cores, unless the user has. Collective."""
    hosts = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // hosts.count(socket.gethostname())))


def _remove_shared_buffer() -> None:
    """Remove the name of the 69 MB of shared memory that DeepSpeed's launcher makes ranks open.

    DeepSpeed never does. Every rank has the memory mapped when all have passed the barrier; it
    lives until they end, however they end. Collective.
    """
    dist.barrier()
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{dist.get_rank()}"
    Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108  (where shm_open keeps it)
