"""The sections of a run's configuration, except for the model and mixing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from megadga.mixers.weights import Weights
from megadga.section import (
    KeyPath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    StrictBool,
    format_value,
)

Precision = Literal["fp32", "bf16", "fp16"]


Packing = Literal["stream", "examples", "chat"]
"""How documents of a specific or evaluation set become sequences."""


WindowPacking = Literal["stream", "chat"]
"""Which tokens of a training domain's windows are trained."""


class NamedFolder(Section):
    """A training domain with an explicit name, instead of its folder's."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the domain in metrics and weights; unique."""
    path: Path
    """The domain's folder of shards, relative to this file."""
    packing: WindowPacking = "stream"
    """What the loss of its windows is on; stream: all tokens; chat: the assistant's turns of
    dialogues (`megadga data build --chat`)."""


class SpecificSet(Section):
    """The few examples of the target task."""

    path: Path
    """Folder of shards, as a domain's, relative to this file."""
    packing: Packing = "stream"
    """How documents become sequences; stream: windows over the concatenated documents; examples:
    each document separately, padded at its end, with the loss on its own tokens only; chat: as
    examples, with the loss on the assistant's turns of dialogues (`megadga data build --chat`)."""
    importance: PositiveFloat = 1.0
    """Weight of this set relative to the other specific sets, above 0."""


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


def _packing_form(value: object) -> str:
    return "<each>" if isinstance(value, Mapping) else "<all>"


OTHER_GROUP = "other"
"""Name of the group of all domains that are in none."""


def _groups_form(value: object) -> str:
    return "<parents>" if isinstance(value, str) else "<named>"


def _one_group_of_a_domain(groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    owners: dict[str, str] = {}
    for group, names in groups.items():
        if group in ("", OTHER_GROUP) or not group.isprintable():
            raise PydanticCustomError(
                "group_name",
                f"Input should be printable names of groups, and not {OTHER_GROUP!r}, which all "
                "domains in no group are",
                {"found": repr(group)},
            )
        for name in names:
            if name in owners:
                raise PydanticCustomError(
                    "group_twice",
                    "Input should be each domain in one group",
                    {"found": f"{name!r} in {owners[name]!r} and {group!r}"},
                )
            owners[name] = group
    return groups


def _entering_form(value: object) -> str:
    return "<explicit>" if isinstance(value, Mapping) else "<named>"


class DataSection(Section):
    """What the run reads."""

    domains: Annotated[
        Annotated[Path, Tag("<folder>")]
        | Annotated[tuple[NamedFolder, ...], AfterValidator(_one_of_a_name), Tag("<list>")],
        Discriminator(_domains_form),
    ]
    """Training domains: a folder with one folder per domain, a folder of many domains in shared
    shards, or a list of {name, path, packing}. Paths are relative to this file."""
    packing: Annotated[
        Annotated[WindowPacking, Tag("<all>")]
        | Annotated[dict[str, WindowPacking], Tag("<each>")],
        Discriminator(_packing_form),
    ] = "stream"
    """What the loss is on in windows of the domains of a folder, as `packing` of a list's: stream
    or chat for all of them, or {domain: packing}, stream where a domain is not named."""
    too_short: Literal["refuse", "leave_out"] = "refuse"
    """Domains with fewer than sequence_length + 1 tokens; refuse: the run does not start;
    leave_out: they are excluded from the mixture, and `check` reports how many."""
    entering: Annotated[
        Annotated[Literal["uniform_share", "proportional"], Tag("<named>")]
        | Annotated[dict[str, NonNegativeFloat], Tag("<explicit>")],
        Discriminator(_entering_form),
    ] = "uniform_share"
    """Share of the mixture of domains that enter when a run is resumed or revised; uniform_share:
    one over the number of domains; proportional: their share of all tokens; or {domain: weight}
    for each that enters. The others keep the rest, in their proportions."""
    revisions: Path | None = None
    """YAML file with other `domains` (and `entering`) for the run while it trains: when it
    changes, or appears, the run goes on with these after the next update of the mixture. Paths in
    it are relative to its folder. null: the domains stay until the run is resumed."""
    groups: Annotated[
        Annotated[Literal["parents"], Tag("<parents>")]
        | Annotated[
            dict[str, Annotated[tuple[str, ...], Field(min_length=1)]],
            AfterValidator(_one_group_of_a_domain),
            Tag("<named>"),
        ],
        Discriminator(_groups_form),
    ] = Field(default={})
    """Groups of domains that reports, comparisons and `megadga mixture show` sum over, {group:
    [domain, ...]}; domains in none are the group other. parents: the clusters of the level above,
    where domains are clusters that `megadga data label --clusters` has labelled. Without effect on
    training."""
    specific: dict[str, SpecificSet] = Field(default={})
    """Target sets by name: {name: {path, packing, importance}}. `dga` and `grape` mixing need at
    least one, `doge` with the target specific exactly one."""

    @property
    def dialogues(self) -> str:
        """What is trained with packing chat, for messages; empty: nothing is."""
        if not isinstance(self.domains, Path):
            chat = [folder.name for folder in self.domains if folder.packing == "chat"]
        elif isinstance(self.packing, str):
            return "all domains" if self.packing == "chat" else ""
        else:
            chat = [name for name, packing in self.packing.items() if packing == "chat"]
        more = f" and {len(chat) - 1} more" if len(chat) > 1 else ""
        return f"domain {chat[0]}{more}" if chat else ""

    def packing_key(self, name: str) -> KeyPath:
        """Return the key that says the packing of a domain."""
        if isinstance(self.domains, Path):
            each = not isinstance(self.packing, str) and name in self.packing
            return ("data", "packing", name) if each else ("data", "packing")
        index = [folder.name for folder in self.domains].index(name)
        return ("data", "domains", index, "packing")

    def chat_domains(self, names: Sequence[str]) -> frozenset[str]:
        """Return which of the domains have packing chat.

        Args:
            names: Of all domains.
        """
        if not isinstance(self.domains, Path):
            return frozenset(each.name for each in self.domains if each.packing == "chat")
        if isinstance(self.packing, str):
            return frozenset(names if self.packing == "chat" else ())
        return frozenset(name for name in names if self.packing.get(name) == "chat")

    @field_validator("packing")
    @classmethod
    def _check_packing(
        cls, packing: str | dict[str, str], info: ValidationInfo
    ) -> str | dict[str, str]:
        if isinstance(info.data.get("domains"), tuple) and packing != "stream":
            raise PydanticCustomError(
                "packing_of_list",
                "Input should be stream (or absent) beside a list of domains, each of which has a "
                "packing of its own",
                {"found": format_value(packing)},
            )
        return packing


class SamplingSection(Section):
    """How batches are sampled from the weights."""

    method: Literal["systematic", "multinomial"] = "systematic"
    """systematic: each domain gets its share of every batch within one sequence; multinomial:
    independent draws, as in the paper."""
    max_epochs: PositiveFloat | None = None
    """Maximum number of epochs of a domain, above 0; weight above the cap moves to the other
    domains. null: no cap."""


class TemperatureStage(Section):
    """A temperature from a step on."""

    step: NonNegativeInt
    """Optimizer steps completed before it holds."""
    temperature: PositiveFloat
    """Above 0."""


def _temperature_form(value: object) -> str:
    return "<one>" if isinstance(value, int | float | str) else "<stages>"


def _from_the_start(stages: tuple[TemperatureStage, ...]) -> tuple[TemperatureStage, ...]:
    steps = [stage.step for stage in stages]
    if steps[:1] != [0] or any(after <= before for before, after in pairwise(steps)):
        raise PydanticCustomError(
            "stages",
            "Input should be stages from step 0 on, each later than the one before",
            {"found": f"steps {steps}"},
        )
    return stages


class LossReweightingSection(Section):
    """Weights a batch's sequences by their losses (arXiv 2502.06733, Algorithm 1)."""

    strategy: Literal["linupper", "quadratic", "extremes", "upper"] = "linupper"
    """linupper: less weight for low losses; quadratic: less weight for both extremes; extremes:
    more weight for both; upper: the more weight the higher the loss."""
    temperature: Annotated[
        Annotated[PositiveFloat, Tag("<one>")]
        | Annotated[
            tuple[TemperatureStage, ...], AfterValidator(_from_the_start), Tag("<stages>")
        ],
        Discriminator(_temperature_form),
    ] = 1.0
    """Above 0; the weights of two sequences differ at most by a factor of exp(1 / temperature).
    One that changes: [{step: 0, temperature: 2}, {step: 10000, temperature: 1}]."""
    warmup: NonNegativeInt = 0
    """Optimizer steps at equal weights, at least 0."""


class TrainingSection(Section):
    """Number of steps, batch sizes and precision."""

    steps: PositiveInt
    """Optimizer steps of the whole run, at least 1."""
    global_batch_size: PositiveInt
    """Sequences per optimizer step over all ranks (B); a multiple of micro batch size x ranks."""
    micro_batch_size: PositiveInt
    """Sequences per forward and backward pass on one rank."""
    precision: Precision = "fp32"
    """Precision of forward and backward passes; the optimizer's master weights are fp32. In fp16
    losses are scaled (deepspeed.fp16), and a step whose gradients overflow changes nothing."""
    non_finite_limit: PositiveInt = 10
    """Consecutive optimizer steps with a non-finite loss or gradient norm after which the run ends
    with an error, at least 1. Only finite models are saved."""
    loss_reweighting: LossReweightingSection | None = None
    """Train on a weighted mean of the global batch's losses; null: on their mean. Steps of several
    micro-batches per rank need an additional forward pass, about a third more time."""
    domain_weights: Weights | None = None
    """Mixture that the loss is over, whatever batches are sampled from: a sequence of a domain
    counts by its weight here over its sampling weight. Written as the weights of type static.
    null: the loss is over the batches' mixture."""


class EvaluatedSet(Section):
    """An additional set that is only evaluated."""

    path: Path
    """Folder of shards with a validation split, relative to this file."""
    packing: Packing = "stream"
    """How documents become sequences, as for specific sets."""


class EvaluationSection(Section):
    """Validation losses on the held-out splits."""

    interval: PositiveInt = 500
    """Optimizer steps between evaluations, at least 1; the last step is always evaluated."""
    sequences: PositiveInt = 64
    """Maximum sequences per validation split; always the same ones."""
    sets: dict[str, EvaluatedSet] = Field(default={})
    """Additional evaluation sets by name: {name: {path, packing}}. They may be added when a run is
    resumed, or after it is finished."""


class MetricsSection(Section):
    """What is logged."""

    by_domain_every: PositiveInt | None = None
    """Optimizer steps between updates and evaluations that are logged with their values by domain,
    at least 1, the others in summary; 1: all of them have those; null: domains / 16, so that a
    step adds a few kilobytes however many domains there are. `by_domain.log` has all of them."""
    peak_flops: PositiveFloat | None = None
    """Floating-point operations per second of one accelerator at its best, above 0, by which
    `train.mfu` is a share; null: as its data sheet says for dense bfloat16, if it is a known one
    and training.precision is bf16, else there is no `mfu`."""


class TensorBoardSection(Section):
    """Event files of TensorBoard."""

    folder: Path | None = None
    """Their folder, relative to this file; null: OUTPUT/events."""


class CsvSection(Section):
    """A table of all numbers that monitors get: step, name, value."""

    folder: Path | None = None
    """Folder of `metrics.csv`, relative to this file; null: OUTPUT/csv."""


class WandbSection(Section):
    """A run of Weights & Biases."""

    project: Annotated[str, Field(min_length=1)] = "megadga"
    """Its project."""
    name: str | None = None
    """Its name; null: Weights & Biases makes one up."""
    group: str | None = None
    """Group that it belongs to, as other seeds or ranks of a comparison; null: none."""
    team: str | None = None
    """Team or user (entity) that owns it; null: the default of the key that is logged in."""
    offline: StrictBool = False
    """Write files to OUTPUT/wandb alone, for `wandb sync` on a machine with a network."""


class CometSection(Section):
    """An experiment of Comet."""

    project: str | None = None
    """Its project; null: as Comet is configured."""
    name: str | None = None
    """Its name; null: Comet makes one up."""
    workspace: str | None = None
    """Workspace that it belongs to; null: as Comet is configured."""
    offline: StrictBool = False
    """Write an archive to OUTPUT/comet alone, for `comet upload` on a machine with a network."""


class MonitorSection(Section):
    """What else the run's numbers are written to, by rank 0."""

    every: PositiveInt = 1
    """Optimizer steps between those whose training loss and times are written, at least 1; updates
    and evaluations always are."""
    tensorboard: TensorBoardSection | None = None
    """TensorBoard: {folder}, {} for the default; null: none."""
    wandb: WandbSection | None = None
    """Weights & Biases: {project, name, group, team, offline}; null: none."""
    csv: CsvSection | None = None
    """A table: {folder}; null: none."""
    comet: CometSection | None = None
    """Comet: {project, name, workspace, offline}; null: none."""


class BestCheckpoints(Section):
    """The checkpoints with the lowest validation loss."""

    loss: Annotated[str, Field(min_length=1)]
    """A loss that the run evaluates: specific/NAME for a specific or an additional evaluation set,
    general for the mean over the domains, domains/NAME. Of checkpoints that a signal asks for at a
    step without an evaluation it is not known: they are never the best."""
    number: PositiveInt = 1
    """Number of checkpoints to keep for it, at least 1; of equal losses the earlier ones."""


class CheckpointSection(Section):
    """When checkpoints are written, and how many are kept."""

    interval: PositiveInt = 500
    """Optimizer steps between checkpoints, at least 1; the last step always has one."""
    keep_last: PositiveInt | None = 2
    """Number of newest checkpoints to keep; null: all."""
    keep_every: PositiveInt | None = None
    """Also keep, for ever, the checkpoints whose step is a multiple of this: a multiple of the
    interval. null: none."""
    keep_best: BestCheckpoints | None = None
    """Also keep the checkpoints with the lowest validation loss: {loss, number}. Needs an interval
    that is a multiple of evaluation.interval. `--from best` and `--step best` name the best."""
    asynchronous: StrictBool = False
    """Train on while a checkpoint is written, after copying it to CPU memory: on each rank as many
    bytes as its files have. It becomes the latest when it is complete on every rank."""
    on_error: Literal["fail", "pause"] = "fail"
    """What a full, read-only or failing file system does to a run; fail: the run ends; pause: it
    says what is wrong, and all ranks wait and try again until it works."""
    pause_minutes: PositiveFloat | None = 60.0
    """Longest pause before the run ends after all, above 0; null: no limit."""


MIN_SPIKE_WINDOW = 8
"""Losses from which a median and a deviation can be told."""


class LossSpikeSection(Section):
    """Steps whose loss stands out from those before them."""

    sigma: PositiveFloat = 6.0
    """Standard deviations above the median of the window from which a loss is a spike, above 0.
    The deviation is 1.4826 times the median absolute deviation, at least 0.001 of the median."""
    window: Annotated[int, Field(strict=True, ge=MIN_SPIKE_WINDOW, le=10_000)] = 100
    """Steps before a step that its loss is compared with, in [8, 10000]; none of the first
    `window` steps is a spike."""
    on_spike: Literal["warn", "skip", "stop", "rewind"] = "warn"
    """warn: only the event; skip: the batch's update is not applied; stop: the run ends with an
    error, unsaved; rewind: the run goes back to its last checkpoint, trains the steps since again
    and leaves the batch out. Losses and gradients that are not finite count as spikes for stop and
    rewind, such losses for skip; `training.non_finite_limit` holds for warn."""
    rewind_batches: PositiveInt = 1
    """Batches that a rewound run leaves out, at least 1: that of the spike, and those before it,
    back to the checkpoint at most. PaLM left out some hundreds (arXiv 2204.02311)."""
    limit: PositiveInt = 3
    """Spikes that skip and rewind answer, at least 1: batches skipped in a row, or returns to the
    same checkpoint. The next one ends the run with an error."""


class WatchSection(Section):
    """What ends a run, or is logged, where training goes wrong without an error."""

    no_progress_minutes: PositiveFloat | None = 20.0
    """Minutes without progress on a rank (no step, no forward pass, no part of an evaluation or
    checkpoint) after which it writes its stacks to OUTPUT/stacks and the run ends, above 0; null:
    no limit. Below `MEGADGA_DEADLINE_S`, or ranks that wait have failed by then."""
    compare_parameters: StrictBool = True
    """Whether every rank's copy of the parameters is compared with rank 0's before a checkpoint is
    written. Under ZeRO-3 there are no copies."""
    loss_spike: LossSpikeSection | None = LossSpikeSection()
    """Steps whose loss stands out; null: they are not looked for."""


class TraceSection(Section):
    """What is kept of every trained sequence, for `megadga value`: its projected gradient."""

    dimension: PositiveInt | None = 16
    """Numbers that the rows and the columns of each matrix's gradient are projected to at most, by
    random signs: dimension² numbers of 4 bytes a matrix and sequence. null: no projection, which
    only models of some thousand parameters allow."""
    limit_gb: PositiveFloat = 100.0
    """Gigabytes that the trace may take in the end, above 0. A run that would need more, or more
    than the disk has, does not start."""
