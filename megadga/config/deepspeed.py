"""DeepSpeed settings of a run for a given number of ranks."""

import copy
from collections.abc import Mapping
from typing import Any

from megadga.config.consistency import (
    BLOCKS_OF_PRECISION,
    PRECISION_BLOCKS,
    is_explicit,
    resolve_total_steps,
)
from megadga.config.deepspeed_keys import (
    DEFAULT_CLIPPING,
    DEFAULT_RATE,
    DEFAULT_RATES,
    STABLE_DECAY,
    StableDecaySection,
    optimizer_name,
)
from megadga.config.run import RunConfig


def deepspeed_settings(config: RunConfig, world_size: int) -> dict[str, Any]:
    """Return the completed settings for ``deepspeed.initialize``.

    Missing batch sizes and precision are filled in from ``training``, and the schedule's length
    "auto" becomes ``training.steps``. A schedule that DeepSpeed lacks is removed: see
    `stable_decay`.

    Args:
        config: The run.
        world_size: Ranks, at least 1.

    Raises:
        ConfigError: If the global batch does not divide among the ranks, or the settings have
            another number of accumulation steps.
    """
    training = config.training
    settings = settings_in_precision(config)
    settings["train_batch_size"] = training.global_batch_size
    settings["train_micro_batch_size_per_gpu"] = training.micro_batch_size
    settings["gradient_accumulation_steps"] = accumulation_steps(config, world_size)
    scheduler = settings.get("scheduler", {})
    if scheduler.get("type") == STABLE_DECAY:
        del settings["scheduler"]
    elif "params" in scheduler:
        scheduler["params"] = resolve_total_steps(scheduler["params"], training.steps)
    return settings


def settings_in_precision(config: RunConfig) -> dict[str, Any]:
    """Return a copy of the settings in which ``training.precision`` is filled in."""
    settings = copy.deepcopy(config.deepspeed)
    names = BLOCKS_OF_PRECISION[config.training.precision]
    if names and settings.keys().isdisjoint(names):  # bf16 has an old name, too
        settings[names[0]] = {}
    for block in PRECISION_BLOCKS:
        if block in settings and not is_explicit(settings[block], "enabled"):
            settings[block]["enabled"] = block in names
    return settings


def accumulation_steps(config: RunConfig, world_size: int) -> int:
    """Return the number of micro-batches that each rank accumulates per optimizer step.

    Raises:
        ConfigError: As `deepspeed_settings` does.
    """
    training = config.training
    at_once = training.micro_batch_size * world_size
    if training.global_batch_size % at_once:
        raise config.invalid(
            "training",
            "global_batch_size",
            expected=f"a multiple of training.micro_batch_size x ranks "
            f"({training.micro_batch_size} x {world_size})",
            found=str(training.global_batch_size),
        )
    steps = training.global_batch_size // at_once
    key = "gradient_accumulation_steps"
    if is_explicit(config.deepspeed, key) and config.deepspeed[key] != steps:
        raise config.invalid(
            "deepspeed",
            key,
            expected=f"{steps} (training.global_batch_size / training.micro_batch_size / "
            f"{world_size} ranks)",
            found=str(config.deepspeed[key]),
        )
    return steps


def stable_decay(config: RunConfig) -> StableDecaySection | None:
    """Return the warm-up-stable-decay schedule if the run uses it."""
    scheduler = config.deepspeed.get("scheduler", {})
    if scheduler.get("type") != STABLE_DECAY:
        return None
    params = resolve_total_steps(scheduler["params"], config.training.steps)
    return StableDecaySection.model_validate(params)


def describe_settings(config: RunConfig) -> str:
    """Return one line with the effective optimizer settings, DeepSpeed's defaults included."""
    settings = config.deepspeed
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    name = optimizer_name(settings)
    clipping = settings.get("gradient_clipping", DEFAULT_CLIPPING)
    by_default = "" if "gradient_clipping" in settings else " (DeepSpeed's default)"
    clipped = f"clipped to norm {clipping:g}" if clipping else "not clipped"
    return (
        f"ZeRO stage {stage}, {name} at a peak learning rate of {peak_rate(config):g}, "
        f"{_schedule(config)}, gradients {clipped}{by_default}"
    )


def peak_rate(config: RunConfig) -> float:
    """Return the maximum learning rate of the run's schedule."""
    scheduler: Mapping[str, Any] = config.deepspeed.get("scheduler", {})
    params: Mapping[str, Any] = scheduler.get("params", {})
    rate = optimizer_rate(config)
    match scheduler.get("type"):
        case "WarmupLR":
            peak = params.get("warmup_max_lr")
        case "WarmupDecayLR":
            peak = params.get("warmup_max_lr", DEFAULT_RATE)
        case "OneCycle":
            peak = params["cycle_max_lr"]
        case "OneCycleLR" | "CyclicLR":
            peak = params["max_lr"]
        case "LRRangeTest":
            growth = params.get("lr_range_test_step_rate", 1.0) * config.training.steps
            growth /= params.get("lr_range_test_step_size", 2000)
            peak = params.get("lr_range_test_min_lr", DEFAULT_RATE) * (1.0 + growth)
        case _:
            peak = None
    return rate if peak is None else peak


def optimizer_rate(config: RunConfig) -> float:
    """Return the optimizer's own learning rate, ignoring the schedule."""
    name = optimizer_name(config.deepspeed) or ""
    default = DEFAULT_RATES.get(name, DEFAULT_RATE)
    return config.deepspeed.get("optimizer", {}).get("params", {}).get("lr", default)


def _schedule(config: RunConfig) -> str:
    scheduler: Mapping[str, Any] = config.deepspeed.get("scheduler", {})
    if not scheduler:
        return "constant"
    params = resolve_total_steps(scheduler.get("params", {}), config.training.steps)
    phases = [
        f"{_grouped(params[key])} {what}"
        for key, what in (
            ("warmup_num_steps", "of warm-up"),
            ("decay_num_steps", "of decay"),
        )
        if key in params
    ]
    total = ""
    if "total_num_steps" in params:
        total = f" over {_grouped(params['total_num_steps'])} steps"
    return f"scheduled by {scheduler['type']}{total}" + (
        f" ({', '.join(phases)})" if phases else ""
    )


def _grouped(value: Any) -> str:
    """Return a number with thousands separators; DeepSpeed rejects other values."""
    return f"{value:,}" if isinstance(value, int | float) else repr(value)
