"""What makes two runs train to the same bits, as far as their configurations say.

Knows no data: what the shards hold is added where they are opened.
"""

from collections.abc import Mapping
from typing import Any, cast

from megadga.config.contradictions import BATCH_SIZES, PRECISION_BLOCKS, with_total
from megadga.config.places import KeyPath, dotted, leaves, shown
from megadga.config.sections import TrainingSection

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
    return shown(values[path]) if path in values else "nothing"
