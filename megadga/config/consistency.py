"""Consistency checks between settings that are valid on their own."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from megadga.config.deepspeed_keys import STABLE_DECAY, StableDecaySection, find_unknown_names
from megadga.config.sections import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    MonitorSection,
    TrainingSection,
)
from megadga.config.validation import issues_from_validation
from megadga.mixers.probing import InFlight, unusable_probe
from megadga.mixers.rule import RuleOptions
from megadga.section import ConfigIssue, KeyPath, format_value

AUTO = "auto"
"""Placeholder in DeepSpeed's JSON for values that the run's configuration defines."""


BATCH_SIZES = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)


BLOCKS_OF_PRECISION = {"fp32": (), "bf16": ("bf16", "bfloat16"), "fp16": ("fp16",)}
"""The block of DeepSpeed's settings of each ``training.precision``, by all of its names."""


PRECISION_BLOCKS = ("bf16", "bfloat16", "fp16", "torch_autocast")


_NEED_TOTAL = ("WarmupDecayLR", "WarmupCosineLR", STABLE_DECAY)


_BLOCKS = ("optimizer", "scheduler", "zero_optimization", *PRECISION_BLOCKS)


def find_inconsistencies(
    settings: Mapping[str, Any], training: TrainingSection | None
) -> Iterator[ConfigIssue]:
    """Yield missing and unknown DeepSpeed settings, and those that contradict the run.

    Args:
        settings: DeepSpeed's settings, as in its JSON.
        training: The run's training section; None if it is invalid itself.
    """
    wrong = {name for name in _BLOCKS if not isinstance(settings.get(name, {}), dict)}
    for name in sorted(wrong):
        yield _issue(name, expected="a mapping", found=settings[name])
    sound = {name: value for name, value in settings.items() if name not in wrong}
    if training is not None:
        yield from _batch_sizes(sound, training)
        yield from _precision(sound, training)
        yield from _schedule(sound.get("scheduler", {}), training)
    yield from find_unknown_names(sound)
    yield from _numbers(sound)
    yield from _unfilled(sound)
    if "optimizer" not in settings:
        yield _issue("optimizer", expected="a mapping with type and params", found=None)
    match sound.get("checkpoint"):
        case {"writer": writer} if writer is not None:
            expected = "null (checkpoint.asynchronous writes checkpoints beside training)"
            yield _issue("checkpoint", "writer", expected=expected, found=writer)
        case _:
            pass
    stage = sound.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield _issue("zero_optimization", "stage", expected="0, 1, 2 or 3", found=stage)


def find_checkpoint_inconsistencies(
    checkpoint: CheckpointSection, evaluation: EvaluationSection | None
) -> Iterator[ConfigIssue]:
    """Yield rules for keeping checkpoints that no checkpoint or no evaluation fits."""
    interval = checkpoint.interval
    if (every := checkpoint.keep_every) is not None and every % interval:
        expected = f"a multiple of checkpoint.interval ({interval})"
        yield ConfigIssue(("checkpoint", "keep_every"), expected, str(every))
    if checkpoint.keep_best is None:
        return
    if evaluation is None:
        yield ConfigIssue(
            ("checkpoint", "keep_best"), "null without evaluation", "a validation loss"
        )
    elif interval % evaluation.interval:
        expected = (
            f"a multiple of evaluation.interval ({evaluation.interval}), as checkpoint.keep_best "
            "needs a validation loss of every checkpoint"
        )
        yield ConfigIssue(("checkpoint", "interval"), expected, str(interval))


def is_explicit(settings: Mapping[str, Any], key: str) -> bool:
    """Return whether a key has an explicit value."""
    return settings.get(key) not in (None, AUTO)


def _issue(*path: str | int, expected: str, found: Any) -> ConfigIssue:
    return ConfigIssue(
        ("deepspeed", *path), expected, "nothing" if found is None else format_value(found)
    )


def _batch_sizes(settings: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    global_size, micro_size = training.global_batch_size, training.micro_batch_size
    if global_size % micro_size:
        expected = f"a multiple of training.micro_batch_size ({micro_size})"
        yield ConfigIssue(("training", "global_batch_size"), expected, str(global_size))
    for key, name, size in (
        ("train_batch_size", "global_batch_size", global_size),
        ("train_micro_batch_size_per_gpu", "micro_batch_size", micro_size),
    ):
        if is_explicit(settings, key) and settings[key] != size:
            yield _issue(key, expected=f"{size} (training.{name})", found=settings[key])
    key = "gradient_accumulation_steps"
    if is_explicit(settings, key) and not _divides(settings[key], global_size, micro_size):
        expected = "a divisor of training.global_batch_size / training.micro_batch_size"
        expected = f"{expected} ({global_size} / {micro_size})"
        yield _issue(key, expected=expected, found=settings[key])


def _divides(steps: Any, global_size: int, micro_size: int) -> bool:
    return isinstance(steps, int) and steps >= 1 and global_size % (micro_size * steps) == 0


def _precision(settings: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    for block in PRECISION_BLOCKS:
        wanted = block in BLOCKS_OF_PRECISION[training.precision]
        enabled = settings.get(block, {}).get("enabled")
        if enabled not in (None, AUTO, wanted):
            expected = f"{format_value(wanted)} (training.precision: {training.precision})"
            yield _issue(block, "enabled", expected=expected, found=enabled)


def _schedule(scheduler: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    params = scheduler.get("params", {})
    if not isinstance(params, dict):
        yield _issue("scheduler", "params", expected="a mapping", found=params)
    elif scheduler.get("type") in _NEED_TOTAL and "total_num_steps" not in params:
        expected = f'a number of steps or "{AUTO}" (training.steps)'
        yield _issue("scheduler", "params", "total_num_steps", expected=expected, found=None)
    elif scheduler.get("type") == STABLE_DECAY:
        try:
            StableDecaySection.model_validate(
                resolve_total_steps(cast("dict[str, Any]", params), training.steps)
            )
        except ValidationError as error:
            for issue in issues_from_validation(error, StableDecaySection):
                path: KeyPath = ("deepspeed", "scheduler", "params", *issue.path)
                yield replace(issue, path=path)


def _numbers(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Find values that must be numbers of at least 0, which DeepSpeed does not check."""
    params: Any = settings.get("optimizer", {}).get("params", {})
    rate: Any = cast("dict[str, Any]", params).get("lr", 0.0) if isinstance(params, dict) else 0.0
    given: tuple[tuple[KeyPath, Any], ...] = (
        (("optimizer", "params", "lr"), rate),
        (("gradient_clipping",), settings.get("gradient_clipping", 0.0)),
    )
    for path, value in given:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != AUTO and not (number and value >= 0.0):
            yield _issue(*path, expected="a number of at least 0", found=value)


def resolve_total_steps(params: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return a schedule's parameters with "auto" replaced by the run's number of steps."""
    auto = params.get("total_num_steps") == AUTO
    return {**params, "total_num_steps": steps} if auto else dict(params)


def _unfilled(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Find "auto" values that other trainers support and this one does not."""
    filled = ("scheduler", "params", "total_num_steps")
    for name in ("optimizer", "scheduler", "zero_optimization", "gradient_clipping"):
        for path in _autos(settings.get(name), (name,)):
            if path != filled:
                yield _issue(*path, expected="an explicit value", found=AUTO)


def _autos(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if value == AUTO:
        yield path
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _autos(inner, (*path, key))


def find_probe_inconsistencies(mixing: RuleOptions, data: DataSection) -> Iterator[ConfigIssue]:
    """Yield an in-flight probe of batches whose sequences have different numbers of targets."""
    if isinstance(mixing.alignment_probe, InFlight) and data.dialogues:
        reason = f"(probe: {{type: directional}}) with packing chat of {data.dialogues}"
        yield unusable_probe(mixing.alignment_probe, f"{reason}, where targets differ in number")


def find_batch_inconsistencies(
    mixing: RuleOptions, training: TrainingSection
) -> Iterator[ConfigIssue]:
    """Yield training options that the in-flight probe does not support."""
    if not isinstance(mixing.alignment_probe, InFlight):
        return
    in_flight = "mixing.probe.type in_flight"
    if training.loss_reweighting is not None:
        expected = f"null with {in_flight}, which measures on batches that train on the mean loss"
        found = training.loss_reweighting.strategy
        yield ConfigIssue(("training", "loss_reweighting"), expected, format_value(found))
    if training.domain_weights is not None:
        expected = f"null with {in_flight}, which measures on batches that train on the mean loss"
        found = format_value(training.domain_weights)
        yield ConfigIssue(("training", "domain_weights"), expected, found)
    if training.global_batch_size == 1:
        expected = f"at least 2 with {in_flight}, which compares the sequences of a batch"
        yield ConfigIssue(("training", "global_batch_size"), expected, "1")


def find_monitor_inconsistencies(
    monitor: MonitorSection, settings: Mapping[str, Any]
) -> Iterator[ConfigIssue]:
    """Yield services that DeepSpeed's own settings ask for as well: a process has one run there.

    Args:
        monitor: The run's section.
        settings: DeepSpeed's settings, as in its JSON.
    """
    for name, section in (("wandb", monitor.wandb), ("comet", monitor.comet)):
        block = settings.get(name)
        if section is not None and isinstance(block, dict) and block.get("enabled"):
            expected = f"null beside the block {name} of DeepSpeed's settings, or none there"
            yield ConfigIssue(("monitor", name), expected, "both")
