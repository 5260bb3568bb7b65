"""Every probe against gradients in float64 on the same device, and what it multiplies with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from alignment_bench.case import Case
from alignment_bench.tokens import write_tokens
from alignment_bench.workbench import Workbench, make_engine
from megadga.arrays import FloatArray, IntArray
from megadga.mixers.probing import LowRank
from megadga.model.llama import Llama
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.sequence_rows import SequenceRows, sequence_dots
from megadga.probes.sequences import ProbeSequences

from .setting import Deadline, Row, Setting

PROBES = ("sharded", "directional", "directional low rank", "in_flight")
QUICK_ENGINES = ((2, "bf16"), (3, "fp32"))
RELEASE_EVERYTHING: Mapping[str, Any] = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}
"""ZeRO-3 keeps small parameters on every rank otherwise, so that little would be shown."""


def exactness(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield each probe's largest error on one rank, ZeRO 0-3, fp32 and bf16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    yield from _inner_products(setting)
    engines = [(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")]
    for stage, precision in QUICK_ENGINES if setting.quick else engines:
        yield from _errors(setting, stage, precision)


def two_ranks(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield the same of two ranks, which share a device where there is only one."""
    yield {"check": "two ranks", "backend": dist.get_backend(), "ranks": dist.get_world_size()}
    engines = [(stage, precision) for stage in (2, 3) for precision in ("fp32", "bf16")]
    for stage, precision in engines[:1] if setting.quick else engines:
        yield from _errors(setting, stage, precision)


def _inner_products(setting: Setting) -> Iterator[Row]:
    """Yield errors of sequences' inner products, on a GPU those of the kernel."""
    sequences, length = (2, 8) if setting.quick else (8, 2048)
    rows = SequenceRows(sequences)
    for dtype in (torch.float32, torch.bfloat16):
        for width in (16, 1000, 4096):
            generator = torch.Generator(setting.device).manual_seed(width)
            left, right = (
                torch.randn(
                    (sequences, length, width), generator=generator, device=setting.device
                ).to(dtype)
                for _ in range(2)
            )
            found = sequence_dots(left, right, rows).double().sum(1)
            products = (left.double() * right.double()).flatten(1)
            error = (found - products.sum(1)).abs() / products.abs().sum(1)
            yield {
                "check": "inner products",
                "precision": str(dtype).removeprefix("torch."),
                "elements": length * width,
                "error": float(error.max()),
            }


def _errors(setting: Setting, stage: int, precision: str) -> Iterator[Row]:
    case = setting.case(
        "tiny",
        stage=stage,
        precision=precision,
        sequence_length=128,
        micro_batch=2,
        accumulation=2,
        ranks=dist.get_world_size(),
    )
    name = f"exactness-{stage}-{precision}-{dist.get_rank()}-of-{case.ranks}"
    folder = setting.scratch / name
    write_tokens(folder, case)
    engine = make_engine(case, RELEASE_EVERYTHING if stage == 3 else {})
    bench = Workbench(case, folder, engine)
    bench.train()
    for update, probe in enumerate(PROBES):
        yield {
            "check": "exactness",
            "probe": probe,
            "stage": stage,
            "precision": precision,
            "ranks": case.ranks,
            **_errors_of_probe(bench, probe, update),
        }
    engine.destroy()


def _errors_of_probe(bench: Workbench, probe: str, update: int) -> Row:
    """Return the largest deviation of an alignment from float64, relative to ``|g_i||d|``.

    ``d`` is the specific gradient, or for thin factors their product; then what the factors leave
    out, relative to ``|g_i||v|``, is another number.
    """
    reference = Float64Reference(bench.engine, bench.case)
    draws = bench.draws()
    v = reference.gradient(_tokens(draws.specific(update)))
    if probe == "in_flight":
        sequences = bench.text.windows(np.arange(bench.case.global_batch))
        owners = bench.trained.domains
        domains = [sequences[owners == index] for index in range(len(bench.domains))]
    else:
        domains = [_tokens(draws.measured(update, i)) for i in range(len(bench.domains))]
    gradients = [reference.gradient(tokens) for tokens in domains]
    found: dict[str, float] = {}
    d = v
    if probe.endswith("low rank"):
        d = _factored(bench, update)
    dots = _measured(bench, probe, update)
    found["error"] = _largest(dots, gradients, d)
    if d is not v:
        along_factors = np.array([float(g @ d) for g in gradients])
        found["left_out"] = _largest(along_factors, gradients, v)
    return found


def _measured(bench: Workbench, probe: str, update: int) -> FloatArray:
    measurement = bench.measurement(probe)
    measurement.prepare(update, bench.trained)
    if probe == "in_flight":
        bench.train()
    return measurement.measure(update).dots


def _largest(dots: FloatArray, gradients: Sequence[Tensor], d: Tensor) -> float:
    return max(
        abs(float(dot) - float(g @ d)) / (_length(g) * _length(d))
        for dot, g in zip(dots, gradients, strict=True)
    )


def _length(vector: Tensor) -> float:
    return float(vector.square().sum().sqrt())


def _tokens(drawn: ProbeSequences) -> IntArray:
    return drawn.read(np.arange(len(drawn)))


def _factored(bench: Workbench, update: int) -> Tensor:
    """Return what a low-rank probe finds, multiplied out; the same seed, the same direction."""
    source = LowRankGradient(bench.passes, LowRank(rank=bench.case.rank), seed=0)
    direction = source.direction(update, bench.specific(update)).direction
    pieces: list[Tensor] = []
    for parameter in bench.passes.parameters:
        factors = direction.factors(parameter)
        if factors is None:
            pieces.append(direction.dense(parameter).double().flatten())
        else:
            pieces.append((factors.left.double() @ factors.right.double().T).flatten())
    return torch.cat(pieces)


class Float64Reference:
    """A float64 copy of an engine's Llama, on its device, differentiated by plain autograd.

    Args:
        engine: Its present parameters are copied. Collective under ZeRO-3.
        case: Says how large it is.
    """

    def __init__(self, engine: Any, case: Case) -> None:
        self._module = Llama(
            case.shape,
            vocabulary_size=case.vocabulary_size,
            sequence_length=case.sequence_length,
            seed=0,
        ).double()
        parameters = list(engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            state = {name: p.detach().double() for name, p in engine.module.named_parameters()}
            self._module.load_state_dict(state, strict=False)  # a tied matrix has one name
        self._module.to(engine.device)
        self._device: torch.device = engine.device

    def gradient(self, tokens: IntArray) -> Tensor:
        """Return the gradient of the mean loss, all parameters in one vector.

        Args:
            tokens: Sequences without padding, shape ``(N, S + 1)``.
        """
        parameters: list[nn.Parameter] = list(self._module.parameters())
        loss = self._module(torch.from_numpy(tokens).to(self._device)).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
