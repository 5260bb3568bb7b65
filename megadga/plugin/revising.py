"""Carries the state of a `MixturePlugin` over to other domains, specific sets or another rule."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import IntArray
from megadga.data.resampling import WindowNorms
from megadga.mixers.base import MixtureState
from megadga.mixers.carrying import MixtureChange


def mixture_of(state: Mapping[str, Any]) -> MixtureState:
    """Return the mixture in the state of a plugin."""
    return MixtureState(
        weights=state["weights"].numpy(),
        averaged_weights=state["averaged_weights"].numpy(),
        num_updates=state["num_updates"],
        num_skipped=state["num_skipped"],
        memory={name: tensor.numpy() for name, tensor in state["memory"].items()},
    )


def state_of(mixture: MixtureState) -> dict[str, Any]:
    """Return a mixture as part of the state of a plugin."""
    return {
        "weights": torch.from_numpy(mixture.weights.copy()),
        "averaged_weights": torch.from_numpy(mixture.averaged_weights.copy()),
        "num_updates": mixture.num_updates,
        "num_skipped": mixture.num_skipped,
        "memory": {name: torch.from_numpy(array.copy()) for name, array in mixture.memory.items()},
    }


def revised_state(
    state: Mapping[str, Any],
    fresh: Mapping[str, Any],
    mixture: MixtureState,
    change: MixtureChange,
    *,
    cursors: IntArray,
    same_measurement: bool,
) -> dict[str, Any]:
    """Return the state of a plugin after a change of its domains, specific sets or rule.

    Args:
        state: Of the plugin before.
        fresh: Of the plugin afterwards, newly made.
        mixture: To go on from.
        change: From the one to the other.
        cursors: Windows drawn from each domain afterwards, shape ``(K',)``.
        same_measurement: Whether what was observed until now has a meaning.
    """
    observer = fresh["observer"]
    if same_measurement:
        observer = _carried(state["observer"], observer, change)
    return {
        **fresh,
        **state_of(mixture),
        "step": state["step"],
        "cursors": torch.from_numpy(np.array(cursors)),
        "frozen": state.get("frozen", False),
        "general_loss": state["general_loss"] if change.same_validation else None,
        "observer": observer,
        "window_norms": _carried_norms(state, fresh, change),
    }


def _carried_norms(
    state: Mapping[str, Any], fresh: Mapping[str, Any], change: MixtureChange
) -> dict[str, Tensor] | None:
    """Return the norms of windows of the domains that stay, with all that was observed."""
    before, first = state.get("window_norms"), fresh.get("window_norms")
    if before is None or first is None:
        return first
    old, new = (np.array(each["windows"], dtype=np.int64) for each in (state, fresh))
    norms = WindowNorms(old, before["norms"].numpy())
    norms = norms.observed(before["places"].numpy(), before["observed"].numpy())
    values = norms.carried(change.sources, new).values
    return {**first, "norms": torch.from_numpy(values)}


def _carried(
    observer: Mapping[str, Any], fresh: Mapping[str, Any], change: MixtureChange
) -> dict[str, Any]:
    """Return observations with those of the domains that stay in their new places."""

    def along(before: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(change.along(before[name].numpy(), array.numpy(), 0))
            for name, array in first.items()
        }

    if "estimates" in fresh:
        estimates = along(observer["estimates"], fresh["estimates"])
        return {**observer, "estimates": estimates}
    if "loss_sums" in fresh:
        return dict(along(observer, fresh))
    return dict(observer)
