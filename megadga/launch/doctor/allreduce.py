"""One rank of a small all-reduce, run as ``python -m megadga.launch.doctor.allreduce DEADLINE_S``.

Rank 0 prints the bandwidth, in bytes per second.
"""

import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from megadga.console import run_program
from megadga.errors import ConfigError
from megadga.launch.ranks import check_visible_devices

_NUM_BYTES = 16 * 2**20


_REPEATS = 5


def measure(deadline_s: float) -> float:
    """Return the bandwidth of an all-reduce in bytes per second. Collective.

    It is the *bus bandwidth* of NVIDIA's nccl-tests, ``2 (n - 1) / n * size / time``: what each
    link carries, whatever the number of ranks.

    Args:
        deadline_s: Time-out of collectives in seconds, above 0.

    Raises:
        ConfigError: If there is no device for this rank.
        RuntimeError: If a rank times out, or the sum is wrong.
    """
    device = _device(int(os.environ["LOCAL_RANK"]))
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=deadline_s))
    size = dist.get_world_size()
    numbers = torch.ones(_NUM_BYTES // 4, device=device)
    _sum(numbers)
    if not bool((numbers == size).all()):
        raise RuntimeError(f"all-reduce: expected {size} from {size} ones, found another number")
    start = time.perf_counter()
    for _ in range(_REPEATS):
        _sum(numbers.fill_(1.0))
    seconds = (time.perf_counter() - start) / _REPEATS
    dist.barrier()
    dist.destroy_process_group()
    return 2 * (size - 1) / size * _NUM_BYTES / seconds


def _device(local_rank: int) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    check_visible_devices(local_rank, torch.accelerator.device_count(), os.environ)
    torch.accelerator.set_device_index(local_rank)
    return torch.device(accelerator.type, local_rank)


def _sum(numbers: torch.Tensor) -> None:
    dist.all_reduce(numbers)
    numbers[0].item()  # waits for the accelerator


def main() -> None:
    """Measure, and print the result on rank 0."""
    deadline_s = float(sys.argv[1])
    signal.alarm(int(3 * deadline_s) + 1)  # ends this process even if a collective hangs
    rank = os.environ["RANK"]
    try:
        bandwidth = measure(deadline_s)
    except (RuntimeError, OSError, ValueError, ConfigError) as error:
        sys.exit(f"rank {rank} ended with {type(error).__name__}: {' '.join(str(error).split())}")
    if rank == "0":
        print(bandwidth, flush=True)


if __name__ == "__main__":
    run_program(main)
