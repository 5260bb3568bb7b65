"""The sections of a run apart from its mixture."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from megadga.section import Count, Flag, Positive, Section, Whole

PresetName = Literal["tiny", "125m", "350m", "750m", "1b", "7b"]


Precision = Literal["fp32", "bf16"]


Packing = Literal["stream", "examples"]


class LlamaModel(Section):
    """A Llama-shaped decoder, trained from its initialisation."""

    type: Literal["llama"]
    """Kind of model."""
    preset: PresetName
    """Named shape: layers, width, heads and MLP width."""
    sequence_length: Count
    """Tokens of a training sequence (S), at least 1."""
    vocabulary_size: Count | None = None
    """Rows of the embedding; null: the tokenizer's size. Larger pads, smaller is refused."""
    activation_checkpointing: Flag = False
    """Recompute each layer's activations in the backward pass: less memory, a third slower."""
    tied_embeddings: Flag | None = None
    """Share input and output embedding; null: as the preset has it."""


class NamedFolder(Section):
    """One training domain that is named here rather than after its folder."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the domain in metrics and weights; unique."""
    path: Path
    """The domain's folder of shards, relative to this file."""


class SpecificSet(Section):
    """The few examples of the target task."""

    path: Path
    """Folder of shards, as a domain's, relative to this file."""
    packing: Packing = "stream"
    """How documents become sequences; stream: windows over all of them, one after the other;
    examples: each by itself, padded at its end, with the loss on its own tokens alone."""
    importance: Positive = 1.0
    """Share of this set in what several add up to, relative to the others', above 0."""


def _domains_form(value: object) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<folder>"


def _one_of_a_name(folders: tuple[NamedFolder, ...]) -> tuple[NamedFolder, ...]:
    if not folders:
        raise PydanticCustomError("too_short", "Input should be at least one {name, path}")
    twice = [name for name, count in Counter(f.name for f in folders).items() if count > 1]
    if twice:
        raise PydanticCustomError(
            "name_twice", "Input should be different names", {"found": f"{twice[0]!r} twice"}
        )
    return folders


class DataSection(Section):
    """What the run reads."""

    domains: Annotated[
        Annotated[Path, Tag("<folder>")]
        | Annotated[tuple[NamedFolder, ...], AfterValidator(_one_of_a_name), Tag("<list>")],
        Discriminator(_domains_form),
    ]
    """Training domains: a folder with one folder per domain, a folder of many domains in shared
    shards, or a list of {name, path}. Paths are relative to this file."""
    too_short: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of domains without a single window of sequence_length + 1 tokens; refuse: the
    run does not start; leave_out: they are no part of the mixture, and `check` says how many."""
    specific: dict[str, SpecificSet] = Field(default={})
    """Target sets by name: {name: {path, packing, importance}}. `dga` and `grape` mixing need at
    least one, `doge` with the target specific exactly one."""


class SamplingSection(Section):
    """How batches are drawn from the weights, whatever sets the weights."""

    method: Literal["systematic", "multinomial"] = "systematic"
    """systematic: each domain gets its share of every batch within one sequence; multinomial:
    independent draws, as in the paper."""
    max_epochs: Positive | None = None
    """Cap on how often a domain is repeated, in epochs above 0; weight beyond it goes to the
    other domains. null: no cap."""


class LossReweightingSection(Section):
    """Weights of a batch's sequences by their losses (arXiv 2502.06733, Algorithm 1)."""

    strategy: Literal["linupper", "quadratic", "extremes"] = "linupper"
    """Which losses count; linupper: low ones less; quadratic: both ends less; extremes: both
    more."""
    temperature: Positive = 1.0
    """Above 0; two weights differ by a factor of exp(1 / temperature) at most."""
    warmup: Whole = 0
    """Optimizer steps at equal weights, at least 0."""


class TrainingSection(Section):
    """How long and in which batches the model trains."""

    steps: Count
    """Optimizer steps of the whole run, at least 1."""
    global_batch_size: Count
    """Sequences of one optimizer step over all ranks (B); a multiple of micro batch x ranks."""
    micro_batch_size: Count
    """Sequences of one forward and backward pass on one rank."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward passes; the optimizer's own copy is fp32 either way."""
    non_finite_limit: Count = 10
    """Optimizer steps in a row whose loss or gradient norm is not finite, after which the run ends
    with an error, at least 1. Checkpoints are written of finite models alone."""
    loss_reweighting: LossReweightingSection | None = None
    """Train on a weighted mean of the global batch's losses; null: on their mean. A step of more
    than one micro-batch per rank costs a forward pass more: about a third more time."""


class EvaluatedSet(Section):
    """A set whose loss is measured, and nothing else."""

    path: Path
    """Folder of shards with a validation split, relative to this file."""
    packing: Packing = "stream"
    """How documents become sequences, as of a specific set."""


class EvaluationSection(Section):
    """Losses on the held-out splits."""

    interval: Count = 500
    """Optimizer steps between evaluations, at least 1; the last step is always evaluated."""
    sequences: Count = 64
    """Sequences of each validation split that are evaluated, at most; always the same ones."""
    sets: dict[str, EvaluatedSet] = Field(default={})
    """More sets to evaluate beside the domains and the specific sets, by name: {name: {path,
    packing}}. A run may get new ones where it goes on, or when it is finished."""


class CheckpointSection(Section):
    """What is kept to resume from."""

    interval: Count = 500
    """Optimizer steps between checkpoints, at least 1; the last step is always kept."""
    keep_last: Count | None = 2
    """Checkpoints kept, the newest ones; null: all."""
