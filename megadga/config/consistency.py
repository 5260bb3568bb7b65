"""Consistency checks between settings that are valid on their own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from megadga.config.deepspeed_keys import STABLE_DECAY, StableDecaySection, find_unknown_names
from megadga.config.mixing import ExtensionMixing, Mixing
from megadga.config.sections import TrainingSection
from megadga.config.validation import ConfigIssue, KeyPath, format_value, issues_from_validation
from megadga.mixers.dga import DgaMixing
from megadga.mixers.doge import DogeMixing
from megadga.mixers.grape import GrapeMixing
from megadga.mixers.probing import DirectionalProbe, InFlightProbe, ShardedProbe
from megadga.mixers.schedule import ScheduleMixing
from megadga.mixers.weights import TemperatureWeights, UnimaxWeights

AUTO = "auto"
"""Placeholder in DeepSpeed's JSON for values that the run's configuration defines."""


BATCH_SIZES = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)


BF16_BLOCKS = ("bf16", "bfloat16")


PRECISION_BLOCKS = (*BF16_BLOCKS, "fp16", "torch_autocast")


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
    stage = sound.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield _issue("zero_optimization", "stage", expected="0, 1, 2 or 3", found=stage)


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
        wanted = training.precision == "bf16" and block in BF16_BLOCKS
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


_OF_NORMS = ("cosine", "clipped")


_IN_FLIGHT = "mixing.probe.type in_flight"


def find_dga_inconsistencies(mixing: DgaMixing) -> Iterator[ConfigIssue]:
    """Yield combinations of a DGA section's options that its probe does not support."""
    if mixing.basis is not None:
        yield from _over_basis(mixing)
    yield from _guards(mixing)
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _direction(probe, mixing.score)
        case InFlightProbe() as probe:
            yield from _direction(probe, mixing.score)
            if mixing.score in _OF_NORMS:
                expected = f"'raw' or 'adam' with {_IN_FLIGHT}, which forms no domain's gradient"
                yield ConfigIssue(("mixing", "score"), expected, format_value(mixing.score))
        case ShardedProbe():
            if mixing.min_signal > 0.0:
                expected = "0 with mixing.probe.type sharded, which measures no noise"
                yield ConfigIssue(
                    ("mixing", "min_signal"), expected, format_value(mixing.min_signal)
                )
            return
    if mixing.min_signal > 0.0 and mixing.probe.sequences_per_domain == 1:
        path = ("mixing", "probe", "sequences_per_domain")
        expected = "at least 2 with mixing.min_signal above 0, to estimate the noise"
        yield ConfigIssue(path, expected, "1")


def find_rule_inconsistencies(
    mixing: Mixing | ExtensionMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield inconsistencies within a mixing section, and with the specific sets.

    Args:
        mixing: The section.
        specific: Names of the specific sets; None if they are invalid themselves.
    """
    match mixing:
        case ScheduleMixing():
            yield from find_schedule_inconsistencies(mixing)
        case ExtensionMixing():
            yield from find_extension_inconsistencies(mixing)
        case DgaMixing():
            yield from find_dga_inconsistencies(mixing)
            yield from _targets(mixing, specific)
        case GrapeMixing():
            yield from _targets(mixing, specific)
        case DogeMixing():
            yield from find_doge_inconsistencies(mixing, specific)
        case _:
            pass


def _targets(
    mixing: DgaMixing | GrapeMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield options that do not support this number of specific sets."""
    if specific is None:
        return
    if not specific:
        expected = f"at least one set, which mixing.type {mixing.type} aligns to"
        yield ConfigIssue(("data", "specific"), expected, "none")
    several = f"{len(specific)} sets in data.specific"
    if isinstance(mixing, GrapeMixing):
        several = "mixing.type grape"
        if isinstance(mixing.probe, DirectionalProbe):
            yield from _direction(mixing.probe, mixing.score)
    elif len(specific) < 2:
        return
    elif mixing.min_signal > 0.0:
        expected = f"0 with {several}, as the noise of their combined scores is not estimated"
        yield ConfigIssue(("mixing", "min_signal"), expected, format_value(mixing.min_signal))
    if isinstance(mixing.probe, InFlightProbe):
        expected = f"directional or sharded with {several}: in_flight has a single direction"
        yield ConfigIssue(("mixing", "probe", "type"), expected, format_value(mixing.probe.type))


def find_doge_inconsistencies(
    mixing: DogeMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield combinations of a DoGE section's options that its probe does not support."""
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _held_direction(probe)
        case InFlightProbe():
            expected = "directional or sharded with mixing.type doge, which needs gradient norms"
            yield ConfigIssue(
                ("mixing", "probe", "type"), expected, format_value(mixing.probe.type)
            )
        case ShardedProbe():
            pass
    if specific is not None and mixing.target == "specific" and len(specific) != 1:
        expected = "exactly one set, which mixing.type doge aligns to"
        yield ConfigIssue(("data", "specific"), expected, ", ".join(specific) or "none")


def _guards(mixing: DgaMixing) -> Iterator[ConfigIssue]:
    if mixing.freeze_after is not None and mixing.freeze_after <= mixing.warmup:
        expected = f"more than mixing.warmup ({mixing.warmup}), or the weights never move"
        yield ConfigIssue(("mixing", "freeze_after"), expected, format_value(mixing.freeze_after))
    guard = mixing.general_guard
    if guard is not None and guard.pull <= mixing.prior_pull:
        expected = f"more than mixing.prior_pull ({mixing.prior_pull}), or the guard does nothing"
        yield ConfigIssue(("mixing", "general_guard", "pull"), expected, format_value(guard.pull))


def find_extension_inconsistencies(mixing: ExtensionMixing) -> Iterator[ConfigIssue]:
    """Yield unsupported options of an extension's probe."""
    if isinstance(mixing.probe, DirectionalProbe | InFlightProbe):
        yield from _held_direction(mixing.probe)


def find_schedule_inconsistencies(mixing: ScheduleMixing) -> Iterator[ConfigIssue]:
    """Yield inconsistencies of a schedule section."""
    given = [key for key in ("stages", "csv", "replay") if getattr(mixing, key) is not None]
    if len(given) != 1:
        expected = "exactly one of stages, csv and replay"
        yield ConfigIssue(("mixing",), expected, " and ".join(given) or "none")
        return
    if mixing.replay is not None and mixing.between == "linear":
        expected = "'constant' with mixing.replay, as weights of a run are piecewise constant"
        yield ConfigIssue(("mixing", "between"), expected, format_value(mixing.between))
    if mixing.stages is not None:
        yield from _stages([stage.step for stage in mixing.stages])


def _stages(steps: Sequence[int]) -> Iterator[ConfigIssue]:
    if not steps:
        yield ConfigIssue(("mixing", "stages"), "at least one stage", "none")
    for index, step in enumerate(steps):
        path = ("mixing", "stages", index, "step")
        if index == 0 and step != 0:
            yield ConfigIssue(path, "0, where training begins", str(step))
        if index > 0 and step <= steps[index - 1]:
            yield ConfigIssue(
                path, f"more than the {steps[index - 1]} of the stage before", str(step)
            )


def find_batch_inconsistencies(
    mixing: Mixing | ExtensionMixing, training: TrainingSection
) -> Iterator[ConfigIssue]:
    """Yield training options that the in-flight probe does not support."""
    measured = isinstance(mixing, DgaMixing | ExtensionMixing)
    if not (measured and isinstance(mixing.probe, InFlightProbe)):
        return
    if training.loss_reweighting is not None:
        expected = f"null with {_IN_FLIGHT}, which measures on batches that train on the mean loss"
        found = training.loss_reweighting.strategy
        yield ConfigIssue(("training", "loss_reweighting"), expected, format_value(found))
    if training.global_batch_size == 1:
        expected = f"at least 2 with {_IN_FLIGHT}, which compares the sequences of a batch"
        yield ConfigIssue(("training", "global_batch_size"), expected, "1")


def _over_basis(mixing: DgaMixing) -> Iterator[ConfigIssue]:
    if isinstance(mixing.probe, InFlightProbe):
        expected = (
            "directional or sharded with mixing.basis: a sequence of a batch is of one domain"
        )
        yield ConfigIssue(("mixing", "probe", "type"), expected, format_value(mixing.probe.type))
    for key, rule in (("initial", mixing.initial), ("prior", mixing.prior)):
        if isinstance(rule, TemperatureWeights | UnimaxWeights):
            found = format_value(rule.model_dump())
        elif rule == "proportional":
            found = format_value(rule)
        else:
            continue
        expected = (
            "uniform or {name: weight} with mixing.basis, whose distributions hold no tokens"
        )
        yield ConfigIssue(("mixing", key), expected, found)


def _direction(probe: DirectionalProbe | InFlightProbe, score: str) -> Iterator[ConfigIssue]:
    yield from _held_direction(probe)
    if probe.direction != "full" and score == "adam":
        expected = "'full' with mixing.score adam, which divides element by element"
        found = format_value(probe.direction.model_dump())
        yield ConfigIssue(("mixing", "probe", "direction"), expected, found)


def _held_direction(probe: DirectionalProbe | InFlightProbe) -> Iterator[ConfigIssue]:
    if probe.direction == "full" and probe.direction_interval > 1:
        expected = "1 with mixing.probe.direction full, or a low-rank one"
        path = ("mixing", "probe", "direction_interval")
        yield ConfigIssue(path, expected, format_value(probe.direction_interval))
