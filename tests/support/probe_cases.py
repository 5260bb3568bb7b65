"""Which engines, models and data the probes are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass

WORLD_SIZES = (1, 2, 4)
PRECISIONS = ("fp32", "bf16")
PACKINGS = ("stream", "examples", "chat")
# DeepSpeed patches F.linear for ZeRO-3 for the rest of the process, so stage 3 runs apart.
FAMILIES: dict[str, tuple[str, ...]] = {
    "zero0-2": ("0", "1", "2", "2-offload"),
    "zero3": ("3", "3-offload", "3-released"),
}

# On four ranks, those that take no second of each rank to build.
_QUICK = ("small", "llama", "llama-untied", "llama-checkpointed")
_OTHERS = (
    *("hf-llama", "llama-compiled", "gpt2", "llama-autocast", "hf-llama-checkpointed"),
    "llama-functions",
)


@dataclass(frozen=True)
class ProbeCase:
    """One engine in training.

    Attributes:
        kind: ZeRO stage, perhaps with ``-offload`` or ``-released`` (see ``zero_settings``).
        precision: Of the parameters, ``fp32`` or ``bf16``.
        model: A name in ``PROBED_MODELS``.
        packing: Of the specific set: ``stream``, or ``examples`` or ``chat`` of unequal lengths.
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
    models and packings these are few, chosen so that every stage, with and without offload, meets
    every precision on every number of ranks; every stage every model; and every packing every
    stage and every number of ranks. As all probes see each case, every one meets all that models
    have (tied weights, checkpointing, compilation, autocast, layers that only Hugging Face has).
    ``test_alignment`` holds the choice to that.
    """
    return [
        case
        for nth, kind in enumerate(FAMILIES[family])
        for case in _of_models(kind, _models(world_size, kind), first=nth + world_size // 2)
    ]


def architecture_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What alignments are compared with float64 on, of architectures that transformers has.

    Each under ZeRO-2 and ZeRO-3, on two ranks: other norms, biases and positions than Llama's.
    """
    kinds = [kind for kind in FAMILIES[family] if kind in ("2", "3")] if world_size == 2 else []
    return [ProbeCase(k, "fp32", m) for k in kinds for m in ("qwen3", "gemma2", "gpt_neox")]


def more_architecture_cases(family: str) -> list[ProbeCase]:
    """The same of more architectures, which ``make test-scale`` adds.

    Under ZeRO-3 parameters are released as soon as they can be. Experts are refused there.
    """
    if family == "zero3":
        return [ProbeCase("3-released", "fp32", model) for model in ("qwen2", "gemma3")]
    return [ProbeCase("2", "fp32", model) for model in ("qwen2", "gemma3", "mixtral")]


def _models(world_size: int, kind: str) -> Sequence[str]:
    """Return the models of one kind of engine: two or more, so that both precisions are met."""
    stage = [each for kinds in FAMILIES.values() for each in kinds if each[0] == kind[0]]
    quick = {each: _QUICK[2 * (nth % 2) :][:2] for nth, each in enumerate(stage)}
    if world_size == 4:
        return quick[kind]
    places = [(each, size) for each in stage for size in (1, 2)]
    on_four = {model for models in quick.values() for model in models}
    pool = [*_OTHERS, *(model for model in _QUICK if model not in on_four), *sorted(on_four)]
    num_needed = max(2 * len(places), len(pool) - len(on_four))
    again = [model for model in pool if model != "llama-compiled"]  # which takes longest
    of_stage = [*pool, *again][:num_needed]
    nth, of = places.index((kind, world_size)), len(places)
    return of_stage[nth * num_needed // of : (nth + 1) * num_needed // of]


def _of_models(kind: str, models: Sequence[str], *, first: int) -> list[ProbeCase]:
    # DeepSpeed refuses autocast of anything but float32.
    ordered = sorted(models, key=lambda model: model != "llama-autocast")
    if "llama-autocast" not in models and first % 2:
        ordered.reverse()
    return [
        ProbeCase(kind, PRECISIONS[place % 2], model, PACKINGS[(place + first) % 3])
        for place, model in enumerate(ordered)
    ]


def preconditioned_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What preconditioned alignments are compared with float64 on: none on four ranks.

    Every stage, with and without offload, in every precision: in one on one rank, in the other
    on two. One model owns parameters of every kind; the other is checkpointed.
    """
    if world_size == 4:
        return []
    model = {1: "llama-checkpointed", 2: "small"}[world_size]
    return [
        ProbeCase(kind, PRECISIONS[(nth + world_size) % 2], model)
        for nth, kind in enumerate(FAMILIES[family])
    ]


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
    """Stages under which thin factors themselves are looked at.

    They are of gradients alone, whatever the optimizer's states are kept on.
    """
    kinds = tuple(kind for kind in FAMILIES[family] if not kind.endswith("-offload"))
    return {1: kinds[:1], 2: kinds, 4: ()}[world_size]


def gathered_cases(world_size: int, family: str) -> list[ProbeCase]:
    """What derivatives are taken of along a direction that travels in pieces: ZeRO-3 alone.

    The models have a matrix that the first module and the last one use, modules whose forward
    pass is run again in the backward pass, and functions that are compiled.
    """
    if (world_size, family) != (2, "zero3"):
        return []
    models = ("llama", "llama-checkpointed", "llama-functions")
    return [ProbeCase("3-released", "fp32", model) for model in models]


def no_trace_cases(world_size: int, family: str) -> list[tuple[ProbeCase, Sequence[str]]]:
    """What is trained with and without probes, and which probes, by their names in ``METHODS``.

    On two ranks with dropout, and where it is drawn twice: every kind of engine meets every probe,
    in one precision or the other. On one rank what is compiled, which takes seconds of each rank.
    """
    kinds = FAMILIES[family]
    whole = ("sharded", "directional", "in_flight")
    low_rank = ("directional-low-rank", "in_flight-low-rank")
    if world_size == 1:
        models = ("llama-compiled", "llama-functions")
        return [
            (ProbeCase(kinds[0], "fp32", each), ("directional", "in_flight")) for each in models
        ]
    return [
        *((ProbeCase(kind, "fp32", "small-dropout"), whole) for kind in kinds),
        *((ProbeCase(kind, "bf16", "small-dropout"), low_rank) for kind in kinds),
        (ProbeCase(kinds[-1], "bf16", "gpt2-dropout-checkpointed"), whole),
    ]
