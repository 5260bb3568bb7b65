"""The processes that train one model together. Knows torch.distributed, and no run."""

import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from megadga.cluster.interfaces import interface_variables
from megadga.cluster.ranks import RankEnvironment, read_deadline_s, read_ranks
from megadga.errors import DivergedError
from megadga.zero.deadline import limit_waiting


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
