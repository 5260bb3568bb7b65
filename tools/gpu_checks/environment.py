"""What the machine is, and whether one DeepSpeed step works there at all."""

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from typing import Any

import torch

from alignment_bench.tokens import write_tokens
from alignment_bench.workbench import Workbench, make_engine
from megadga.probes.loss import mean_loss

from .setting import Deadline, Row, Setting

_PACKAGES = ("torch", "deepspeed", "numpy", "transformers", "pydantic", "megadga")


def environment(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield versions, the device, NCCL, the speed of a matrix product, and a step's loss."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    yield {
        "check": "versions",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        **versions,
    }
    yield {"check": "device", **_device(setting)}
    yield {"check": "nccl", **_nccl(setting)}
    yield {"check": "matmul", "tflops": _matmul_tflops(setting)}
    yield {"check": "step", **_step(setting)}


def _nccl(setting: Setting) -> Row:
    available = torch.distributed.is_nccl_available()
    if setting.device == "cpu" or not available:
        return {"available": available, "version": None}
    from torch.cuda import nccl  # noqa: PLC0415  (not in a build for CPUs)

    version: Any = nccl.version()
    return {"available": True, "version": ".".join(map(str, version))}


def _device(setting: Setting) -> Row:
    if setting.device == "cpu":
        return {"name": platform.processor() or platform.machine(), "count": 1}
    cuda: Any = torch.cuda
    properties = cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "count": cuda.device_count(),
        "memory_gib": properties.total_memory / 2**30,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
    }


def _matmul_tflops(setting: Setting) -> float:
    """Return the rate of a bf16 matrix product on random numbers: what a model could reach."""
    size, repeats = (128, 2) if setting.quick else (8192, 20)
    left = torch.randn(size, size, device=setting.device, dtype=torch.bfloat16)
    right = torch.randn(size, size, device=setting.device, dtype=torch.bfloat16)
    for _ in range(3):
        torch.matmul(left, right)
    synchronize(setting)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(left, right)
    synchronize(setting)
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e12


def _step(setting: Setting) -> Row:
    """Take one optimizer step of the tiny model under ZeRO-2."""
    case = setting.case(
        "tiny", stage=2, precision="bf16", sequence_length=256, micro_batch=2, accumulation=2
    )
    folder = setting.scratch / "environment"
    write_tokens(folder, case)
    engine = make_engine(case)
    bench = Workbench(case, folder, engine)
    start = time.perf_counter()
    bench.train()
    loss = float(mean_loss(engine.module, bench.batch[0]))
    seconds = time.perf_counter() - start
    engine.destroy()
    return {"loss": loss, "seconds": seconds, "device": str(engine.device)}


def synchronize(setting: Setting) -> None:
    """Wait until the device has done what it was given."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
