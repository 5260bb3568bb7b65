"""A run's whole configuration as one frozen value, and what of it identifies the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from megadga.config.contradictions import (
    BATCH_SIZES,
    PRECISION_BLOCKS,
    find_batch_contradictions,
    find_inconsistencies,
    with_total,
)
from megadga.config.mixing import ExtensionOptions, Mixing
from megadga.config.sections import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    LlamaModel,
    SamplingSection,
    TrainingSection,
)
from megadga.config.validation import SourceMap, as_error, dotted, leaves, under, with_paths
from megadga.config.yaml_source import dump
from megadga.errors import ConfigError
from megadga.mixers.rule import RuleOptions
from megadga.section import ConfigIssue, KeyPath, Section, format_value

NOT_TRAINED: dict[str, Any] = {
    "output": True,
    "evaluation": True,
    "checkpoint": True,
    # The same data may move; which domains are left out is seen in the domains that are not.
    "data": {"domains": True, "too_short": True, "specific": {"__all__": {"path"}}},
    # Files may move; what is in them counts.
    "mixing": {
        "histogram": True,
        "basis": True,
        "csv": True,
        "replay": {"metrics": True},
        "reference": True,
    },
    # Training may go on for longer, unless the schedule depends on it.
    "training": {"steps", "non_finite_limit"},
    "deepspeed": True,  # compared as it is completed
}
"""Keys of a run that do not change what is trained, as pydantic's ``exclude``."""


MAY_CHANGE: frozenset[KeyPath] = frozenset(
    {("deepspeed", "scheduler", "params", "total_num_steps")}
)
"""Keys of an identity that may differ where a run goes on: it can be made longer or shorter."""


_REPORTING = frozenset(
    {
        "comet",
        "comms_logger",
        "csv_monitor",
        "dump_state",
        "flops_profiler",
        "log_level",
        "memory_breakdown",
        "steps_per_print",
        "tensorboard",
        "wall_clock_breakdown",
        "wandb",
    }
)


def settings_identity(settings: Mapping[str, Any], training: TrainingSection) -> dict[str, Any]:
    """Return DeepSpeed's settings as far as they change what is trained.

    What repeats ``training`` is left out, and the schedule's length is the one it comes to.
    """
    kept = {
        name: value
        for name, value in settings.items()
        if name not in _REPORTING and name not in BATCH_SIZES
    }
    for block in PRECISION_BLOCKS:
        options = {key: value for key, value in kept.pop(block, {}).items() if key != "enabled"}
        if options:
            kept[block] = options
    if "params" in kept.get("scheduler", {}):
        params = with_total(kept["scheduler"]["params"], training.steps)
        kept["scheduler"] = {**kept["scheduler"], "params": params}
    return kept


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return one line for each key in which two identities differ.

    Args:
        expected: For instance a checkpoint's.
        found: For instance this run's.

    Returns:
        Lines ``dotted.key: expected X, found Y``, in the order of ``expected``; a key that one of
        them lacks has ``nothing`` there.
    """
    before, after = dict(leaves(expected)), dict(leaves(found))
    return [
        f"{dotted(path)}: expected {_told(before, path)}, found {_told(after, path)}"
        for path in {**before, **after}
        if path not in before or path not in after or before[path] != after[path]
    ]


def other_run(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference that makes another run of it; see `differences`."""
    return differences(without_changeable(expected), without_changeable(found))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what two identities of one run have under each dotted key in which they differ."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return {
        dotted(path): (old.get(path), new.get(path))
        for path in {**old, **new}
        if old.get(path) != new.get(path)
    }


def without_changeable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without what may change where a run goes on."""
    return _without(identity, ())


def _without(section: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    return {
        key: _without(cast("Mapping[str, Any]", value), (*path, key))
        if isinstance(value, Mapping)
        else value
        for key, value in section.items()
        if (*path, key) not in MAY_CHANGE
    }


def _told(values: Mapping[KeyPath, Any], path: KeyPath) -> str:
    return format_value(values[path]) if path in values else "nothing"


class RunConfig(Section):
    """One training run, whole.

    Validated with a `SourceMap` as context, it tells mistakes that show up later, when the shards
    or the number of ranks are known, with the file and line of the key.
    """

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """Seed of everything random: initialisation, batches, probes; in [0, 2^63)."""
    output: Path
    """Folder of the run's metrics and checkpoints. As every path here, relative to the folder of
    this file; in an override (--set), to the working directory."""
    model: LlamaModel
    """What is trained."""
    data: DataSection
    """What it is trained on."""
    mixing: Mixing
    """How the weights of the domains are set: type dga, grape, doge, doremi, odm, schedule,
    importance, static or, for short, uniform, proportional, temperature or unimax; or that of an
    installed extension."""
    sampling: SamplingSection = SamplingSection()
    """How batches are drawn from the weights."""
    training: TrainingSection
    """How long and in which batches."""
    deepspeed: dict[str, Any]
    """DeepSpeed's own settings: optimizer, schedule, ZeRO. A path to its JSON, relative to this
    file, or the settings themselves."""
    evaluation: EvaluationSection | None = EvaluationSection()
    """Losses on held-out splits; null: none."""
    checkpoint: CheckpointSection | None = CheckpointSection()
    """What is kept to resume from; null: nothing, unless a signal stops the run."""

    _places: SourceMap = PrivateAttr(default_factory=SourceMap)

    def model_post_init(self, context: Any, /) -> None:
        """Keep the places that the values were validated with."""
        if isinstance(context, SourceMap):
            self._places = context

    def invalid(self, *path: str | int, expected: str, found: str) -> ConfigError:
        """Return the error that says what is wrong at a key: one line with its place."""
        return self.error([ConfigIssue(path, expected, found)])

    def error(self, issues: Sequence[ConfigIssue]) -> ConfigError:
        """Return the error that says what is wrong, with a line and its place for each mistake."""
        return self._places.error(issues)

    def says(self, *path: str | int) -> bool:
        """Return whether a key was written, in a file or in an override."""
        return self._places.has(path)

    def tell(self, issue: ConfigIssue) -> str:
        """Return what is wrong at a key, or may be, as one line with its place."""
        return self._places.tell(issue)

    @property
    def is_guarded(self) -> bool:
        """Whether evaluations change what is trained."""
        return self.mixing.reads_evaluations

    def identity(self) -> dict[str, Any]:
        """Return everything here that changes the bits of what is trained, JSON-shaped.

        Where the data lies, where results go and how often they are looked at are left out, but
        for evaluations that the mixture depends on; so are the number of steps, and specific sets
        that the mixture does not align to. The length of the learning-rate schedule is in, and may
        change (`MAY_CHANGE`).
        """
        values = self.model_dump(mode="json", exclude=NOT_TRAINED)
        values["deepspeed"] = settings_identity(self.deepspeed, self.training)
        if self.is_guarded and self.evaluation is not None:
            values["evaluation"] = self.evaluation.model_dump(mode="json", exclude={"sets"})
        if isinstance(self.mixing, ExtensionOptions):
            installed, _ = self.mixing.origin()
            # None of its keys is known but by its type: files may move.
            moved = with_paths(self.mixing, lambda _, path: Path(path.name))
            values["mixing"] = moved.model_dump(mode="json")
            values["extension"] = installed.distribution
        elif not self.mixing.aligns_to_specific:
            del values["data"]["specific"]
        return values

    def to_yaml(self) -> str:
        """Return the run as text that `load_config` reads back, defaults spelt out.

        Paths are absolute: the text is read from another folder than the run's file was.
        """
        absolute = with_paths(self, lambda _, path: under(Path.cwd(), path))
        return dump(absolute.model_dump(mode="json"))

    @field_validator("mixing")
    @classmethod
    def _can_be_measured(cls, mixing: RuleOptions, info: ValidationInfo) -> RuleOptions:
        data: DataSection | None = info.data.get("data")  # None: has mistakes of its own
        specific = None if data is None else tuple(data.specific)
        if issues := list(mixing.find_inconsistencies(specific)):
            raise as_error(issues)
        return mixing

    @field_validator("training")
    @classmethod
    def _suffices(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        mixing: RuleOptions | None = info.data.get("mixing")
        if mixing and (issues := list(find_batch_contradictions(mixing, training))):
            raise as_error(issues)
        return training

    @field_validator("evaluation")
    @classmethod
    def _names_differ(
        cls, evaluation: EvaluationSection | None, info: ValidationInfo
    ) -> EvaluationSection | None:
        data: DataSection | None = info.data.get("data")
        if evaluation is None or data is None:
            return evaluation
        if twice := sorted(evaluation.sets.keys() & data.specific.keys()):
            expected = "names that no set under data.specific has"
            issues = [ConfigIssue(("evaluation", "sets", name), expected, name) for name in twice]
            raise as_error(issues)
        return evaluation

    @field_validator("deepspeed")
    @classmethod
    def _agrees(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        issues = list(find_inconsistencies(settings, info.data.get("training")))
        if issues:
            raise as_error(issues)
        return settings
