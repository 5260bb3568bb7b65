"""One rank of one side: trains as many steps as it is asked to, and says what that took."""

import gc
import os
import sys
import time
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from .case import Case, Side
from .loops import LOOPS, Loop
from .turns import Memory, Turn


def run_rank(
    connection: Connection,
    side: Side,
    case: Case,
    environment: Mapping[str, str],
    log: Path,
) -> None:
    """Train until asked to stop; the target of a process of its own.

    Sends None once the engine is there, a ``Turn`` for each number of steps received, and a
    ``Memory`` for None. Nothing is sent after an error, which is in the log.

    Args:
        connection: To the process that asks.
        side: What is trained.
        case: On what.
        environment: What a launcher tells a rank.
        log: File that both streams are appended to.
    """
    os.environ.update(environment)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(sink, stream.fileno())
    warnings.filterwarnings("ignore")
    gc.freeze()  # DeepSpeed collects garbage: not among all that was imported
    before = psutil.Process().memory_info().rss
    with LOOPS[side](case) as loop:
        connection.send(None)
        while (steps := connection.recv()) is not None:
            connection.send(_timed(loop, steps))
        connection.send(_memory(before))


def _timed(loop: Loop, steps: int) -> Turn:
    """Train some steps. Collective."""
    _wait()
    cpu, start = time.process_time(), time.perf_counter()
    loop(steps)
    _wait()
    return Turn(steps, time.perf_counter() - start, time.process_time() - cpu)


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    dist.barrier()


def _memory(before: int) -> Memory:
    """Return the most that this rank has held: of its accelerator, or of main memory."""
    if torch.cuda.is_available():
        return Memory(0, torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return Memory(before, int(line.split()[1]) * 1024)
