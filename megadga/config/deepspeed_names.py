"""Finds names in DeepSpeed's settings that DeepSpeed does not know. Imports neither it nor torch.

DeepSpeed passes over most keys that it does not know, and trains without them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, cast

from megadga.config.deepspeed_keys import (
    FOREIGN_OPTIMIZERS,
    KEYS,
    OPTIMIZERS,
    REMOVED,
    REMOVED_OF_ZERO,
    SCHEDULERS,
    TORCH_OPTIMIZERS,
    Keys,
)
from megadga.config.mistakes import CLOSE
from megadga.config.places import KeyPath, Mistake, dotted, shown
from megadga.config.schedule import STABLE_DECAY

_ROOT: KeyPath = ("deepspeed",)
_CPU = ("cpu", "nvme")
_MOST_NAMED = 25
"""Names that a message lists."""
_ELSEWHERE: Mapping[str, str] = {
    "max_grad_norm": "gradient_clipping",
    "clip_grad": "gradient_clipping",
    "grad_clip": "gradient_clipping",
    "learning_rate": "optimizer.params.lr",
    "lr": "optimizer.params.lr",
    "weight_decay": "optimizer.params.weight_decay",
    "betas": "optimizer.params.betas",
}
"""Names that other programs have for settings, or that stand in another place."""


def find_unknown_names(settings: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield every key, optimizer, scheduler and parameter that DeepSpeed does not know.

    Args:
        settings: DeepSpeed's, as its JSON has them.
    """
    yield from _keys(settings, KEYS, _ROOT)
    yield from _optimizer(settings)
    yield from _scheduler(settings)


def optimizer_name(settings: Mapping[str, Any]) -> str | None:
    """Return the known optimizer of the settings, in its own spelling; None: it is not known."""
    found = settings.get("optimizer", {}).get("type")
    if not isinstance(found, str):
        return None
    of_deepspeed = (*OPTIMIZERS, *FOREIGN_OPTIMIZERS)
    named = next((name for name in of_deepspeed if name.lower() == found.lower()), None)
    return named or (found if found in TORCH_OPTIMIZERS else None)


def _keys(settings: Mapping[str, Any], known: Keys, path: KeyPath) -> Iterator[Mistake]:
    for name, value in settings.items():
        here = (*path, name)
        if name not in known:
            removed = {_ROOT: REMOVED, (*_ROOT, "zero_optimization"): REMOVED_OF_ZERO}
            if name in removed.get(path, ()):
                found = f"{name!r}, which DeepSpeed 0.19 has removed"
                yield Mistake(here, "a key of DeepSpeed's", found)
            else:
                yield _unknown(here, known, "key", _elsewhere(name))
        elif (below := known[name]) is not None:
            if isinstance(value, Mapping):
                yield from _keys(cast("Mapping[str, Any]", value), below, here)
            elif value is not None or path == _ROOT:
                yield Mistake(here, "a mapping", "nothing" if value is None else shown(value))


def _optimizer(settings: Mapping[str, Any]) -> Iterator[Mistake]:
    section = settings.get("optimizer")
    if not isinstance(section, Mapping):
        return
    name = optimizer_name(settings)
    if name is None:
        names = (*OPTIMIZERS, *TORCH_OPTIMIZERS, *FOREIGN_OPTIMIZERS)
        yield _unknown_type("optimizer", cast("Mapping[str, Any]", section), names)
    elif name not in FOREIGN_OPTIMIZERS:
        params = cast("Mapping[str, Any]", section).get("params", {})
        if name in OPTIMIZERS:
            known = OPTIMIZERS[name][_implementation(name, settings, params)]
        else:
            known = TORCH_OPTIMIZERS[name]
        yield from _params("optimizer", params, known, ())


def _implementation(name: str, settings: Mapping[str, Any], params: Any) -> str:
    """Return which of an optimizer's implementations DeepSpeed takes."""
    kinds = OPTIMIZERS[name]
    if "any" in kinds:
        return "any"
    if "torch" in kinds and isinstance(params, Mapping) and params.get("torch_adam"):
        return "torch"
    zero: Any = settings.get("zero_optimization", {})
    offload: Any = zero.get("offload_optimizer")
    device: Any = (
        cast("Mapping[str, Any]", offload).get("device") if isinstance(offload, Mapping) else None
    )
    return "cpu" if zero.get("cpu_offload") or device in _CPU else "accelerator"


def _scheduler(settings: Mapping[str, Any]) -> Iterator[Mistake]:
    section = settings.get("scheduler")
    if not isinstance(section, Mapping):
        return
    scheduler = cast("Mapping[str, Any]", section)
    name = scheduler.get("type")
    if name == STABLE_DECAY:
        return  # ours: its parameters are a section of ours
    if not isinstance(name, str) or name not in SCHEDULERS:
        yield _unknown_type("scheduler", scheduler, (*SCHEDULERS, STABLE_DECAY))
        return
    known = SCHEDULERS[name]
    # The number of steps is asked for where the run's is known.
    required = known.required - {"total_num_steps"}
    yield from _params("scheduler", scheduler.get("params"), known.names, required)


def _params(
    section: str, params: Any, known: Collection[str], required: Collection[str]
) -> Iterator[Mistake]:
    path = (*_ROOT, section, "params")
    if not isinstance(params, Mapping):
        yield Mistake(path, "a mapping", "nothing" if params is None else shown(params))
        return
    for name in cast("Mapping[str, Any]", params):
        if name not in known:
            elsewhere = [_ELSEWHERE[name]] if name == "max_grad_norm" else []
            yield _unknown((*path, name), known, "parameter", elsewhere)
    for name in sorted(set(required) - set(cast("Mapping[str, Any]", params))):
        yield Mistake((*path, name), "a value", "nothing")


def _unknown_type(section: str, found: Mapping[str, Any], names: Iterable[str]) -> Mistake:
    path = (*_ROOT, section, "type")
    name = found.get("type")
    if not isinstance(name, str):
        expected = f"one of {', '.join(sorted(names))}"
        return Mistake(path, expected, "nothing" if name is None else shown(name))
    return _unknown(path, names, section, [], found=name)


def _unknown(
    path: KeyPath, known: Iterable[str], noun: str, elsewhere: list[str], *, found: str = ""
) -> Mistake:
    """Name the nearest of the known names, or where else there is one of this name."""
    name = found or str(path[-1])
    # Names differ in case as often as in letters.
    by_lower = {each.lower(): each for each in sorted(known)}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=CLOSE)
    hints = [by_lower[each] for each in close] or elsewhere
    few = not hints and len(by_lower) <= _MOST_NAMED
    return Mistake(
        path,
        expected=f"one of {', '.join(sorted(by_lower.values()))}" if few else f"a known {noun}",
        found=repr(name),
        hint=" or ".join(map(repr, hints)),
    )


def _elsewhere(name: str) -> list[str]:
    """Return the keys of this name in other places, or the one that other programs call so."""
    if name in _ELSEWHERE:
        return [_ELSEWHERE[name]]
    return [dotted(path) for path in _all(KEYS) if path[-1] == name][:2]


def _all(keys: Keys, path: KeyPath = ()) -> Iterator[KeyPath]:
    for name, below in keys.items():
        yield (*path, name)
        if below is not None:
            yield from _all(below, (*path, name))
