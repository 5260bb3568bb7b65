"""The configuration of a run as one frozen value, and the part of it that identifies the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from megadga.config.consistency import (
    BATCH_SIZES,
    PRECISION_BLOCKS,
    find_batch_inconsistencies,
    find_checkpoint_inconsistencies,
    find_inconsistencies,
    find_monitor_inconsistencies,
    find_probe_inconsistencies,
    resolve_total_steps,
)
from megadga.config.deepspeed_keys import REPORTING_SETTINGS
from megadga.config.mixing import ExtensionOptions, Mixing
from megadga.config.models import HuggingFaceModel, Model
from megadga.config.sections import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    MetricsSection,
    MonitorSection,
    SamplingSection,
    TraceSection,
    TrainingSection,
    WatchSection,
)
from megadga.config.tracing import find_untraceable
from megadga.config.validation import (
    SourceMap,
    dotted,
    leaves,
    map_paths,
    resolve_path,
    validation_error,
)
from megadga.config.yaml_source import dump
from megadga.errors import ConfigError
from megadga.mixers.rule import RuleOptions
from megadga.section import ConfigIssue, KeyPath, Section, format_value

NOT_TRAINED: dict[str, Any] = {
    "output": True,
    "evaluation": True,
    "checkpoint": True,
    # What a run has done about a spike is in its checkpoints, and in its folder.
    "watch": True,
    "metrics": True,
    "monitor": True,
    "trace": True,
    # Data may move; the shards' identity lists the domains that are used.
    "data": {
        "domains": True,
        "packing": True,
        "too_short": True,
        "entering": True,
        "groups": True,
        "revisions": True,
        "specific": {"__all__": {"path"}},
    },
    # Files may move; their content is part of the shards' identity.
    "mixing": {
        "histogram": True,
        "basis": True,
        "csv": True,
        "replay": {"metrics": True},
        "reference": True,
    },
    # A run may be extended, unless the schedule depends on its length.
    "training": {"steps", "non_finite_limit"},
    "deepspeed": True,  # see settings_identity
}
"""Keys that do not affect the training result, as pydantic's ``exclude``."""


def settings_identity(settings: Mapping[str, Any], training: TrainingSection) -> dict[str, Any]:
    """Return the part of DeepSpeed's settings that affects the training result.

    Omits what repeats ``training``; the schedule's length is resolved.
    """
    kept = {
        name: value
        for name, value in settings.items()
        if name not in REPORTING_SETTINGS and name not in BATCH_SIZES
    }
    for block in PRECISION_BLOCKS:
        options = {key: value for key, value in kept.pop(block, {}).items() if key != "enabled"}
        if options:
            kept[block] = options
    if "params" in kept.get("scheduler", {}):
        params = resolve_total_steps(kept["scheduler"]["params"], training.steps)
        kept["scheduler"] = {**kept["scheduler"], "params": params}
    return kept


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return one line for each key in which two identities differ.

    Args:
        expected: For instance a checkpoint's identity.
        found: For instance this run's identity.

    Returns:
        Lines ``dotted.key: expected X, found Y``, in the order of ``expected``, with ``nothing``
        for missing keys.
    """
    before, after = dict(leaves(expected)), dict(leaves(found))
    return [
        f"{dotted(path)}: expected {_format(before, path)}, found {_format(after, path)}"
        for path in {**before, **after}
        if path not in before or path not in after or before[path] != after[path]
    ]


def _format(values: Mapping[KeyPath, Any], path: KeyPath) -> str:
    return format_value(values[path]) if path in values else "nothing"


class RunConfig(Section):
    """Configuration of one training run.

    If validated with a `SourceMap` as context, errors found later, when the shards or the number
    of ranks are known, also name the file and line of the key.
    """

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    """Seed of everything random: initialisation, batches, probes, dropout; in [0, 2^63)."""
    output: Path
    """Folder of the run's metrics and checkpoints. As every path here, relative to the folder of
    this file; in an override (--set), to the working directory."""
    model: Model
    """What is trained: type llama or hugging_face."""
    data: DataSection
    """What it is trained on."""
    mixing: Mixing
    """How the domain weights are determined: type dga, grape, doge, doremi, odm, ado,
    gradient_norm, schedule, importance, static or, for short, uniform, proportional, temperature
    or unimax; or that of an installed extension."""
    sampling: SamplingSection = SamplingSection()
    """How batches are sampled from the weights."""
    training: TrainingSection
    """Number of steps, batch sizes and precision."""
    deepspeed: dict[str, Any]
    """DeepSpeed's own settings: optimizer, schedule, ZeRO. A path to its JSON, relative to this
    file, or the settings themselves."""
    evaluation: EvaluationSection | None = EvaluationSection()
    """Losses on held-out splits; null: none."""
    checkpoint: CheckpointSection | None = CheckpointSection()
    """When checkpoints are written; null: only when a signal stops the run."""
    metrics: MetricsSection = MetricsSection()
    """What is logged."""
    monitor: MonitorSection = MonitorSection()
    """What else it is logged to: TensorBoard, Weights & Biases, CSV, Comet."""
    watch: WatchSection = WatchSection()
    """What ends the run, or is logged, where it hangs, its ranks differ, or its loss spikes."""
    trace: TraceSection | None = None
    """Projected gradients of all trained sequences, by which `megadga value` tells what each was
    worth: {dimension, limit_gb}, {} for the defaults; null: none."""

    _places: SourceMap = PrivateAttr(default_factory=SourceMap)

    def model_post_init(self, context: Any, /) -> None:
        """Store the source map that the values were validated with."""
        if isinstance(context, SourceMap):
            self._places = context

    def invalid(self, *path: str | int, expected: str, found: str) -> ConfigError:
        """Return a one-line error about a key, with its file and line."""
        return self.error([ConfigIssue(path, expected, found)])

    def error(self, issues: Sequence[ConfigIssue]) -> ConfigError:
        """Return an error with one line per issue, each with its file and line."""
        return self._places.error(issues)

    def is_set(self, *path: str | int) -> bool:
        """Return whether a key was set in a file or an override."""
        return self._places.contains(path)

    def format_issue(self, issue: ConfigIssue) -> str:
        """Return an issue as one line with its file and line."""
        return self._places.format_issue(issue)

    def identity(self) -> dict[str, Any]:
        """Return all settings that affect the training result bit for bit, JSON-serializable.

        Excludes locations of data and output, the intervals of checkpoints and of evaluations
        (unless the mixture depends on them), the number of steps, and specific sets that are not
        used for alignment. What of it may change when a run is resumed, `megadga.config.resuming`
        says.
        """
        values = self.model_dump(mode="json", exclude=NOT_TRAINED)
        values["model"] |= self._model_identity()
        values["deepspeed"] = settings_identity(self.deepspeed, self.training)
        if self.mixing.reads_evaluations:
            values["evaluation"] = {
                "interval": None if self.evaluation is None else self.evaluation.interval,
                "sequences": None if self.evaluation is None else self.evaluation.sequences,
            }
        if isinstance(self.mixing, ExtensionOptions):
            installed, _ = self.mixing.origin()
            # Its keys are unknown here; paths are recognised by their type and may move.
            moved = map_paths(self.mixing, lambda _, path: Path(path.name))
            values["mixing"] = moved.model_dump(mode="json")
            values["extension"] = installed.distribution
        elif not self.mixing.aligns_to_specific:
            del values["data"]["specific"]
        return values

    def _model_identity(self) -> dict[str, Any]:
        """Return the names of the folders that weights are from, which may move."""
        started = self.model.initial_weights
        names = {"initial_weights": None if started is None else started.name}
        match self.model:
            case HuggingFaceModel(path=str() as path):
                return {**names, "path": Path(path).name}
            case _:
                return names

    def to_yaml(self) -> str:
        """Return YAML that `load_config` reads back, with defaults spelled out.

        Paths are absolute, as the text is written to another folder.
        """
        absolute = map_paths(self, lambda _, path: resolve_path(Path.cwd(), path))
        return dump(absolute.model_dump(mode="json"))

    @field_validator("mixing")
    @classmethod
    def _check_mixing(cls, mixing: RuleOptions, info: ValidationInfo) -> RuleOptions:
        data: DataSection | None = info.data.get("data")  # None if it is invalid itself
        specific = None if data is None else tuple(data.specific)
        issues = list(mixing.find_inconsistencies(specific))
        if data is not None:
            issues += find_probe_inconsistencies(mixing, data)
        if issues:
            raise validation_error(issues)
        return mixing

    @field_validator("training")
    @classmethod
    def _check_batches(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        mixing: RuleOptions | None = info.data.get("mixing")
        if mixing and (issues := list(find_batch_inconsistencies(mixing, training))):
            raise validation_error(issues)
        return training

    @field_validator("evaluation")
    @classmethod
    def _check_names(
        cls, evaluation: EvaluationSection | None, info: ValidationInfo
    ) -> EvaluationSection | None:
        data: DataSection | None = info.data.get("data")
        if evaluation is None or data is None:
            return evaluation
        if twice := sorted(evaluation.sets.keys() & data.specific.keys()):
            expected = "names that no set under data.specific has"
            issues = [ConfigIssue(("evaluation", "sets", name), expected, name) for name in twice]
            raise validation_error(issues)
        return evaluation

    @field_validator("checkpoint")
    @classmethod
    def _check_kept(
        cls, checkpoint: CheckpointSection | None, info: ValidationInfo
    ) -> CheckpointSection | None:
        if checkpoint is not None and "evaluation" in info.data:
            evaluation: EvaluationSection | None = info.data["evaluation"]
            if issues := list(find_checkpoint_inconsistencies(checkpoint, evaluation)):
                raise validation_error(issues)
        return checkpoint

    @field_validator("watch")
    @classmethod
    def _check_watch(cls, watch: WatchSection, info: ValidationInfo) -> WatchSection:
        spikes, checkpoint = watch.loss_spike, info.data.get("checkpoint")
        rewinds = spikes is not None and spikes.on_spike == "rewind"
        if rewinds and checkpoint is None and "checkpoint" in info.data:
            expected = "warn, skip or stop: without checkpoints there is none to go back to"
            issue = ConfigIssue(("watch", "loss_spike", "on_spike"), expected, "rewind")
            raise validation_error([issue])
        return watch

    @field_validator("trace")
    @classmethod
    def _check_trace(cls, trace: TraceSection | None, info: ValidationInfo) -> TraceSection | None:
        if trace is not None and (issues := list(find_untraceable(info.data))):
            raise validation_error(issues)
        return trace

    @field_validator("monitor")
    @classmethod
    def _check_monitor(cls, monitor: MonitorSection, info: ValidationInfo) -> MonitorSection:
        settings: dict[str, Any] = info.data.get("deepspeed", {})
        issues = list(find_monitor_inconsistencies(monitor, settings))
        if issues:
            raise validation_error(issues)
        return monitor

    @field_validator("deepspeed")
    @classmethod
    def _check_deepspeed(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        issues = list(find_inconsistencies(settings, info.data.get("training")))
        if issues:
            raise validation_error(issues)
        return settings
