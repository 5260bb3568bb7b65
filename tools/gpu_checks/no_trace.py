"""Training with probes against training without: equal to the bit."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignment_bench.case import Case
from alignment_bench.tokens import cut, write_tokens
from alignment_bench.workbench import Workbench, make_engine
from megadga.mixers.base import Scheduler
from megadga.mixers.dga import Dga
from megadga.mixers.probing import DIRECTIONAL, Directional, InFlight, LowRank, Probe, Sharded
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.loss import mean_loss

from .exactness import RELEASE_EVERYTHING
from .setting import Deadline, Row, Setting

STEPS = 20
QUICK_STEPS = 4
METHODS: Mapping[str, Probe | None] = {
    "none, again": None,
    "sharded": Sharded(),
    "directional": Directional(),
    "directional low rank": Directional(direction=LowRank(rank=16)),
    "in_flight": InFlight(),
}
QUICK_METHODS = {name: METHODS[name] for name in ("directional", "in_flight")}
_UPDATES = 2
_DOMAINS = 4


def no_trace(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield whether losses, and parameters at the end, are those of training without a probe.

    Attention runs by SDPA's flash kernel. Its backward pass, and cuBLAS, are deterministic only
    when told to be: ``torch.use_deterministic_algorithms`` and ``CUBLAS_WORKSPACE_CONFIG``. A
    second run without probes shows whether they are.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts, which is later
    torch.use_deterministic_algorithms(True)
    try:
        yield from _comparisons(setting)
    finally:
        torch.use_deterministic_algorithms(False)


def _comparisons(setting: Setting) -> Iterator[Row]:
    settings = {"sdpa": "flash", "deterministic_algorithms": True, "cublas_workspace": ":4096:8"}
    steps = QUICK_STEPS if setting.quick else STEPS
    methods = QUICK_METHODS if setting.quick else METHODS
    for stage in (3,) if setting.quick else (2, 3):
        case = setting.case(
            "tiny",
            stage=stage,
            precision="bf16",
            sequence_length=128,
            micro_batch=2,
            accumulation=2,
        )
        folder = setting.scratch / f"no-trace-{stage}"
        write_tokens(folder, case)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            plain = _train(case, folder, steps, None)
            for name, method in methods.items():
                yield {
                    "check": "no trace",
                    "probe": name,
                    "stage": stage,
                    "precision": case.precision,
                    "steps": steps,
                    "equal": _train(case, folder, steps, method) == plain,
                    **settings,
                }


def _train(case: Case, folder: Path, steps: int, method: Probe | None) -> tuple[list[float], str]:
    """Return each step's losses, and a hash of the parameters at the end."""
    engine = make_engine(case, RELEASE_EVERYTHING if case.stage == 3 else {})
    bench = Workbench(case, folder, engine)
    weights = uniform_weights(_DOMAINS)
    # A step of length 0 measures and never moves.
    scheduler: Scheduler = Static(weights) if method is None else Dga(weights, step_size=0.0)
    plugin = MixturePlugin(
        engine,
        cut(bench.text, _DOMAINS),
        bench.specific_set,
        scheduler,
        sampling=Sampling(seed=0),
        interval=steps // _UPDATES,
        probe=(method or DIRECTIONAL).model_copy(
            update={"sequences_per_domain": 2, "specific_sequences": 4}
        ),
    )
    losses: list[float] = []
    num_updates = 0
    for step in range(1, steps + 1):
        for tokens in plugin.next_batch().tokens:
            loss = mean_loss(engine, tokens)
            losses.append(float(loss))
            engine.backward(loss)
            engine.step()
        num_updates += "update" in plugin.after_step(step)
    if num_updates != (expected := 0 if method is None else _UPDATES):
        raise RuntimeError(f"expected {expected} updates, found {num_updates}")
    plugin.close()
    digest = hash_of(engine)
    engine.destroy()
    return losses, digest


def hash_of(engine: Any) -> str:
    """Return the SHA-256 of all parameters' bytes. Collective under ZeRO-3."""
    parameters: list[Tensor] = list(engine.module.parameters())
    digest = hashlib.sha256()
    with deepspeed.zero.GatheredParameters(parameters):
        for parameter in parameters:
            whole = parameter.detach().contiguous().cpu()
            digest.update(whole.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
