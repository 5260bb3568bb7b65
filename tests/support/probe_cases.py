"""Which engines, models and data the probes are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass

WORLD_SIZES = (1, 2, 4)
PRECISIONS = ("fp32", "bf16")
PACKINGS = ("stream", "examples")
# DeepSpeed patches F.linear for ZeRO-3 for the rest of the process, so stage 3 runs apart.
FAMILIES: dict[str, tuple[str, ...]] = {
    "zero0-2": ("0", "1", "2", "2-offload"),
    "zero3": ("3", "3-offload", "3-released"),
}

_SOME = ("llama", "hf-llama", "llama-compiled", "gpt2", "small")
_OTHERS = ("llama-checkpointed", "llama-autocast", "llama-untied", "hf-llama-checkpointed")
# On four ranks, those that take no second of each rank to import.
_QUICK = ("small", "llama", "llama-untied", "llama-checkpointed")


@dataclass(frozen=True)
class ProbeCase:
    """One engine in training.

    Attributes:
        kind: ZeRO stage, perhaps with ``-offload`` or ``-released`` (see ``zero_settings``).
        precision: Of the parameters, ``fp32`` or ``bf16``.
        model: A name in ``PROBED_MODELS``.
        packing: Of the specific set: ``stream``, or ``examples`` of unequal lengths.
    """

    kind: str
    precision: str
    model: str = "small"
    packing: str = "stream"

    @property
    def stage(self) -> str:
        return self.kind[0]


def exactness_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What alignments are compared with float64 on, a number of ranks and a family of stages.

    All three probes go through each case. Of the full product of stages, ranks, precisions,
    models and packings these are about a tenth, chosen so that every stage, with and without
    offload, meets every precision on every number of ranks; every stage every model; and every
    packing every stage and every number of ranks. As all probes see each case, every one meets
    all that models have (tied weights, checkpointing, compilation, autocast, layers that only
    Hugging Face has). ``test_alignment`` holds the choice to that.
    """
    return [case for kind in FAMILIES[family] for case in _of_kind(world_size, kind)]


def _of_kind(world_size: int, kind: str) -> list[ProbeCase]:
    offload = kind.endswith("-offload")
    odd = int(kind[0]) % 2
    models: Sequence[str]
    if world_size == 4:
        models = _QUICK[2 * offload :][:2]
    else:  # what one stage tries on one rank, the next tries on two
        models = (_SOME, _OTHERS)[(world_size + odd + offload) % 2]
        models = (models[0], models[2]) if offload else models
    cases: list[ProbeCase] = []
    for place, model in enumerate(models):
        # DeepSpeed refuses autocast of anything but float32.
        half = (place + odd) % 2 == 0 and model != "llama-autocast"
        packing = PACKINGS[(place // 2 + world_size // 2 + odd) % 2]
        cases.append(ProbeCase(kind, PRECISIONS[half], model, packing))
    return cases


def preconditioned_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What preconditioned alignments are compared with float64 on: none on four ranks.

    Every stage, with and without offload, in every precision. One model owns parameters of every
    kind; the other is checkpointed.
    """
    if world_size == 4:
        return []
    model = {1: "llama-checkpointed", 2: "small"}[world_size]
    return [ProbeCase(k, precision, model) for k in FAMILIES[family] for precision in PRECISIONS]


def factored_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What alignments with thin factors are compared with float64 on: two ranks alone.

    The models have a matrix that is used twice, one that is stored transposed, and a module with
    matrices that are not its own.
    """
    if world_size != 2:
        return []
    models = ("llama-checkpointed", "gpt2", "small")
    kinds = (FAMILIES[family] * 2)[-3:]
    return [ProbeCase(k, "fp32", m) for k, m in zip(kinds, models, strict=True)] + [
        ProbeCase(kinds[0], "bf16", "llama")
    ]


def wide_kinds(world_size: int, family: str) -> tuple[str, ...]:
    """Stages under which thin factors themselves are looked at."""
    return {1: FAMILIES[family][:1], 2: FAMILIES[family], 4: ()}[world_size]


def no_trace_cases(family: str) -> list[ProbeCase]:
    """What is trained with and without probes: with dropout, and where it is drawn twice."""
    kinds = FAMILIES[family]
    return [
        *(ProbeCase(k, precision, "small-dropout") for k in kinds for precision in PRECISIONS),
        ProbeCase(kinds[-1], "bf16", "gpt2-dropout-checkpointed"),
        ProbeCase(kinds[0], "fp32", "llama-compiled"),
    ]
