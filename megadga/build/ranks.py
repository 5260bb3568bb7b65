"""The processes that train one model together. Knows torch.distributed, and no run."""

import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

_LAUNCHED = ("RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Variables of which a launcher sets one: ``deepspeed`` and ``torchrun``, or an MPI."""


@contextmanager
def process_group() -> Generator[None]:
    """Join the ranks that a launcher started; without a launcher, be the only one. Collective.

    A group that is there already is used, and left by who formed it.

    After an error the group is left to the launcher, which ends the other ranks: taking it down
    in good order would wait for them.
    """
    formed_here = not dist.is_initialized()
    if not any(name in os.environ for name in _LAUNCHED):
        # DeepSpeed reads these and nothing else. Port 0: any free one, as nobody else joins.
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}
        os.environ |= {name: str(value) for name, value in alone.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    _prefer_own_tools()
    deepspeed.init_distributed()
    accelerator: Any = get_accelerator()
    accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    _share_cores()
    _remove_shared_buffer()
    yield
    if formed_here:
        leave()


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
