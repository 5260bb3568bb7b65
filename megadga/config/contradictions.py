"""Settings that are valid by themselves and contradict each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from megadga.config.deepspeed_keys import STABLE_DECAY, StableDecaySection, find_unknown_names
from megadga.config.mixing import ExtensionMixing, Mixing
from megadga.config.sections import TrainingSection
from megadga.config.validation import from_validation
from megadga.mixers.dga import DgaMixing
from megadga.mixers.doge import DogeMixing
from megadga.mixers.grape import GrapeMixing
from megadga.mixers.probing import DirectionalProbe, InFlightProbe, ShardedProbe
from megadga.mixers.schedule import ScheduleMixing
from megadga.mixers.weights import TemperatureWeights, UnimaxWeights
from megadga.section import ConfigIssue, KeyPath, format_value

AUTO = "auto"
"""What DeepSpeed's JSON may say where the run's configuration decides."""


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
    """Yield what DeepSpeed's settings lack, do not know, or say otherwise than the run does.

    Args:
        settings: DeepSpeed's, as its JSON has them.
        training: Batch sizes, steps and precision of the run; None: they have mistakes themselves.
    """
    wrong = {name for name in _BLOCKS if not isinstance(settings.get(name, {}), dict)}
    for name in sorted(wrong):
        yield _mistake(name, expected="a mapping", found=settings[name])
    sound = {name: value for name, value in settings.items() if name not in wrong}
    if training is not None:
        yield from _batch_sizes(sound, training)
        yield from _precision(sound, training)
        yield from _schedule(sound.get("scheduler", {}), training)
    yield from find_unknown_names(sound)
    yield from _numbers(sound)
    yield from _unfilled(sound)
    if "optimizer" not in settings:
        yield _mistake("optimizer", expected="a mapping with type and params", found=None)
    stage = sound.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield _mistake("zero_optimization", "stage", expected="0, 1, 2 or 3", found=stage)


def stated(settings: Mapping[str, Any], key: str) -> bool:
    """Return whether the settings say something of their own under a key."""
    return settings.get(key) not in (None, AUTO)


def _mistake(*path: str | int, expected: str, found: Any) -> ConfigIssue:
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
        if stated(settings, key) and settings[key] != size:
            yield _mistake(key, expected=f"{size} (training.{name})", found=settings[key])
    key = "gradient_accumulation_steps"
    if stated(settings, key) and not _divides(settings[key], global_size, micro_size):
        expected = "a divisor of training.global_batch_size / training.micro_batch_size"
        expected = f"{expected} ({global_size} / {micro_size})"
        yield _mistake(key, expected=expected, found=settings[key])


def _divides(steps: Any, global_size: int, micro_size: int) -> bool:
    return isinstance(steps, int) and steps >= 1 and global_size % (micro_size * steps) == 0


def _precision(settings: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    for block in PRECISION_BLOCKS:
        wanted = training.precision == "bf16" and block in BF16_BLOCKS
        enabled = settings.get(block, {}).get("enabled")
        if enabled not in (None, AUTO, wanted):
            expected = f"{format_value(wanted)} (training.precision: {training.precision})"
            yield _mistake(block, "enabled", expected=expected, found=enabled)


def _schedule(scheduler: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    params = scheduler.get("params", {})
    if not isinstance(params, dict):
        yield _mistake("scheduler", "params", expected="a mapping", found=params)
    elif scheduler.get("type") in _NEED_TOTAL and "total_num_steps" not in params:
        expected = f'a number of steps or "{AUTO}" (training.steps)'
        yield _mistake("scheduler", "params", "total_num_steps", expected=expected, found=None)
    elif scheduler.get("type") == STABLE_DECAY:
        try:
            StableDecaySection.model_validate(
                with_total(cast("dict[str, Any]", params), training.steps)
            )
        except ValidationError as error:
            for issue in from_validation(error, StableDecaySection):
                path: KeyPath = ("deepspeed", "scheduler", "params", *issue.path)
                yield replace(issue, path=path)


def _numbers(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Find what must be a number of at least 0, and is not: DeepSpeed would compute with it."""
    params: Any = settings.get("optimizer", {}).get("params", {})
    rate: Any = cast("dict[str, Any]", params).get("lr", 0.0) if isinstance(params, dict) else 0.0
    given: tuple[tuple[KeyPath, Any], ...] = (
        (("optimizer", "params", "lr"), rate),
        (("gradient_clipping",), settings.get("gradient_clipping", 0.0)),
    )
    for path, value in given:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != AUTO and not (number and value >= 0.0):
            yield _mistake(*path, expected="a number of at least 0", found=value)


def with_total(params: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return a schedule's parameters with "auto" steps replaced by the run's."""
    auto = params.get("total_num_steps") == AUTO
    return {**params, "total_num_steps": steps} if auto else dict(params)


def _unfilled(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Find "auto" where other trainers fill something in and this one does not."""
    filled = ("scheduler", "params", "total_num_steps")
    for name in ("optimizer", "scheduler", "zero_optimization", "gradient_clipping"):
        for path in _autos(settings.get(name), (name,)):
            if path != filled:
                yield _mistake(*path, expected="a value of its own", found=AUTO)


def _autos(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if value == AUTO:
        yield path
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _autos(inner, (*path, key))


_OF_NORMS = ("cosine", "clipped")


_IN_FLIGHT = "mixing.probe.type in_flight"


def find_mixing_contradictions(mixing: DgaMixing) -> Iterator[ConfigIssue]:
    """Yield what a section says that cannot be measured the way that it says."""
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
        expected = "at least 2 with mixing.min_signal above 0, or there is no noise to see"
        yield ConfigIssue(path, expected, "1")


def find_rule_inconsistencies(
    mixing: Mixing | ExtensionMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield what a rule's section says that cannot be done, or not the way that it says.

    Args:
        mixing: The section.
        specific: Names of the specific sets; None: they have mistakes of their own.
    """
    match mixing:
        case ScheduleMixing():
            yield from find_schedule_contradictions(mixing)
        case ExtensionMixing():
            yield from find_extension_contradictions(mixing)
        case DgaMixing():
            yield from find_mixing_contradictions(mixing)
            yield from _targets(mixing, specific)
        case GrapeMixing():
            yield from _targets(mixing, specific)
        case DogeMixing():
            yield from find_doge_contradictions(mixing, specific)
        case _:
            pass


def _targets(
    mixing: DgaMixing | GrapeMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield what cannot be said of so many specific sets."""
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
        expected = f"0 with {several}, of whose scores together the noise is not known"
        yield ConfigIssue(("mixing", "min_signal"), expected, format_value(mixing.min_signal))
    if isinstance(mixing.probe, InFlightProbe):
        expected = f"directional or sharded with {several}: a step is watched along one direction"
        yield ConfigIssue(("mixing", "probe", "type"), expected, format_value(mixing.probe.type))


def find_doge_contradictions(
    mixing: DogeMixing, specific: Sequence[str] | None
) -> Iterator[ConfigIssue]:
    """Yield what a section says that cannot be measured the way that it says."""
    match mixing.probe:
        case DirectionalProbe() as probe:
            yield from _held_direction(probe)
        case InFlightProbe():
            expected = "directional or sharded with mixing.type doge, which needs every norm"
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


def find_extension_contradictions(mixing: ExtensionMixing) -> Iterator[ConfigIssue]:
    """Yield what an extension's probe cannot do, whatever the rule observes."""
    if isinstance(mixing.probe, DirectionalProbe | InFlightProbe):
        yield from _held_direction(mixing.probe)


def find_schedule_contradictions(mixing: ScheduleMixing) -> Iterator[ConfigIssue]:
    """Yield what keeps a section from being one schedule."""
    said = [key for key in ("stages", "csv", "replay") if getattr(mixing, key) is not None]
    if len(said) != 1:
        expected = "exactly one of stages, csv and replay"
        yield ConfigIssue(("mixing",), expected, " and ".join(said) or "none")
        return
    if mixing.replay is not None and mixing.between == "linear":
        expected = "'constant' with mixing.replay, as the weights of a run are"
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


def find_batch_contradictions(
    mixing: Mixing | ExtensionMixing, training: TrainingSection
) -> Iterator[ConfigIssue]:
    """Yield what a run's batches cannot be measured on."""
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
