"""Measures what a device and its links reach: the constants of a prediction."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from megadga.config.llama_shapes import LlamaShape
from megadga.model.llama import Llama
from megadga.planning.constants import write_measured
from megadga.planning.fitting import TimedPass, fit_constants
from megadga.planning.workload import Decoder, Workload, Zero
from megadga.probes.collective import ProcessGroupCollective
from megadga.train.ranks import process_group

_ROUNDS = 7
_ACCELERATOR_WIDTH, _CPU_WIDTH = 8192, 1024
_HEAD_WIDTH = 64
_SIZES = ((512, 8, 512), (1024, 2, 2048), (2048, 1, 4096), (4096, 1, 2048), (4096, 2, 4096))
"""Widths, sequences and their lengths of decoders that are timed."""
_SIZES_ON_CPU = (
    (64, 1, 32),
    (64, 2, 128),
    (128, 2, 128),
    (192, 1, 256),
    (256, 2, 64),
    (384, 1, 128),
)
_COLLECTIVE_BYTES, _COLLECTIVE_BYTES_ON_CPU = 1 << 28, 1 << 24


def calibrate(output: Path) -> Iterator[tuple[str, float]]:
    """Measure constants, and write them to a file on rank 0. Collective.

    Args:
        output: The file.

    Yields:
        Each constant's name and value, on rank 0.
    """
    with process_group():
        device = _device()
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        measured: dict[str, float] = {}
        for name, value in measure_constants(device, dtype):
            measured[name] = value
            if dist.get_rank() == 0:
                yield name, value
        if dist.get_rank() == 0:
            named = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
            write_measured(output, named, measured)


def measure_constants(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Yield constants by name. Collective.

    Args:
        device: This rank's.
        dtype: Of weights and activations.
    """
    alone = {
        "seconds_per_operation": seconds_per_operation(device),
        "matmul_flops": matmul_flops(device, dtype),
        "attention_flops": attention_flops(device, dtype),
        "memory_bandwidth": memory_bandwidth(device, dtype),
    }
    yield from fit_constants(timed_passes(device, dtype), alone).items()
    if dist.get_world_size() > 1:
        yield from _collectives(device)


def timed_passes(device: torch.device, dtype: torch.dtype) -> list[TimedPass]:
    """Time forward and backward passes of two-layer decoders of several widths."""
    on_cpu = device.type == "cpu"
    sizes = _SIZES_ON_CPU if on_cpu else _SIZES
    return [_timed_pass(device, dtype, *size) for size in sizes]


def _timed_pass(
    device: torch.device, dtype: torch.dtype, width: int, batch: int, length: int
) -> TimedPass:
    heads = max(1, width // _HEAD_WIDTH)
    hidden = 8 * width // 3 // 32 * 32
    shape = LlamaShape(2, width, heads, heads, hidden, tied_embeddings=False)
    vocabulary = 4 * width
    model = Llama(shape, vocabulary_size=vocabulary, sequence_length=length, seed=0)
    model.to(device, dtype)
    tokens = torch.randint(vocabulary, (batch, length + 1)).to(device)

    def run() -> None:
        model(tokens).mean().backward()

    on_cpu = device.type == "cpu"
    decoder = Decoder(
        num_layers=2,
        hidden_size=width,
        num_heads=heads,
        kv_width=width,
        intermediate_size=hidden,
        vocabulary_size=vocabulary,
        tied_embeddings=False,
    )
    workload = Workload(
        decoder,
        Zero(0),
        ranks=1,
        sequence_length=length,
        micro_batch=batch,
        accumulation=1,
        element_bytes=4 if dtype == torch.float32 else 2,
        on_cpu=on_cpu,
    )
    return TimedPass(workload, _seconds(run, device))


def seconds_per_operation(device: torch.device) -> float:
    """Return the seconds of an operation on next to nothing, of many one after the other."""
    small = torch.zeros(8, device=device)

    def run() -> None:
        for _ in range(200):
            small.add_(1.0)

    return _seconds(run, device) / 200


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of products of large square matrices."""
    width = _CPU_WIDTH if device.type == "cpu" else _ACCELERATOR_WIDTH
    left, right = (_normal((width, width), device, dtype) for _ in range(2))
    return 2.0 * width**3 / _seconds(lambda: left @ right, device)


def attention_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of causal attention, forward and backward; masked pairs do not count."""
    heads, length = (4, 256) if device.type == "cpu" else (32, 4096)
    shape = (1, heads, length, _HEAD_WIDTH)
    query, key, value = (_normal(shape, device, dtype).requires_grad_() for _ in range(3))

    def run() -> None:
        mixed: Tensor = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.autograd.grad(mixed.sum(), (query, key, value))

    # Two products of all pairs forward, of which half count, and two and a half times as much.
    flops = 3.5 * 2.0 * heads * length**2 * _HEAD_WIDTH
    return flops / _seconds(run, device)


def memory_bandwidth(device: torch.device, dtype: torch.dtype) -> float:
    """Return the bytes per second that an elementwise sum of two tensors reads and writes."""
    size = 1 << (20 if device.type == "cpu" else 28)
    left, right = (_normal((size,), device, dtype) for _ in range(2))
    out = torch.empty_like(left)
    moved = 3.0 * size * left.itemsize
    return moved / _seconds(lambda: torch.add(left, right, out=out), device)


def _collectives(device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield the bandwidth and start of an all-gather over all ranks. Collective."""
    collective = ProcessGroupCollective(None, device)
    ranks, nodes = collective.world_size, _num_nodes(device)
    size = _COLLECTIVE_BYTES_ON_CPU if device.type == "cpu" else _COLLECTIVE_BYTES
    own = torch.zeros(size // ranks, dtype=torch.uint8, device=device)
    small = torch.zeros(8, dtype=torch.uint8, device=device)
    start = _seconds(lambda: collective.all_gather(small), device)
    seconds = max(_seconds(lambda: collective.all_gather(own), device) - start, 1e-9)
    yield "collective_latency_s", start
    if nodes == 1:
        yield "node_bandwidth", (ranks - 1) / ranks * size / seconds
    else:
        yield "network_bandwidth", (nodes - 1) / nodes * size / seconds / (ranks / nodes)


def _num_nodes(device: torch.device) -> int:
    """Return how many nodes the ranks are on, by how many are the first of theirs. Collective."""
    if device.type == "cpu":
        return 1
    first = torch.tensor([float(device.index == 0)], device=device)
    dist.all_reduce(first)
    return int(first.item())


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return torch.device("cpu")
    return torch.device(found.type, torch.accelerator.current_device_index())


def _normal(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device=device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the fewest seconds of some runs, after two that warm up: other load only slows."""
    found: list[float] = []
    for number in range(_ROUNDS + 2):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= 2:
            found.append(time.perf_counter() - start)
    return min(found)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
