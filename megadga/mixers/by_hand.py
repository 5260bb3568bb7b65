"""Weights that are set by hand while a run goes on: which they are, and how a rule goes on.

A person names some domains and their new averaged weights; the others share the rest in proportion
to what they have. The rule then continues from these weights instead of returning to its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.mixers.base import MixtureState, Scheduler
from megadga.mixers.weights import ROUNDING

_EXACT = 1e-9
"""How far a sum of weights may be above 1: rounding of decimals."""


@runtime_checkable
class ContinuesFrom(Protocol):
    """A rule whose next weights do not follow from ``MixtureState.weights`` alone.

    Rules without this method are mirror descent on ``weights``: it is enough to replace these.
    """

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state from which the rule goes on at other weights; ``state`` stays as it is.

        Args:
            state: The rule's.
            weights: A distribution over what the rule weights.
        """
        ...


def continue_from(scheduler: Scheduler, state: MixtureState, weights: FloatArray) -> MixtureState:
    """Return the state from which a rule goes on at weights that were set by hand.

    Both mixtures become ``weights``, and all that the rule has observed is kept. Guards and limits
    of the rule (floor, caps, largest change) hold again from its next update on.

    Args:
        scheduler: The rule.
        state: Its state.
        weights: A distribution over what the rule weights: the domains, or basis distributions.
    """
    if isinstance(scheduler, ContinuesFrom):
        return scheduler.continue_from(state, weights)
    return replace(state, weights=weights.copy(), averaged_weights=weights.copy())


def set_weights(
    names: Sequence[str], current: FloatArray, wanted: Mapping[str, float]
) -> FloatArray:
    """Return a mixture in which some domains have given weights.

    Args:
        names: All domains, ``K`` of them.
        current: Their weights, shape ``(K,)``. What the named ones leave is shared by the others
            in proportion to these.
        wanted: Weights by name, at least one.

    Raises:
        ConfigError: If a name is unknown, a weight is not in ``[0, 1]``, the sum is above 1, or
            it is below 1 and no other domain has a weight above 0; names what is wrong.
    """
    places = {name: place for place, name in enumerate(names)}
    for name, weight in wanted.items():
        if name not in places:
            close = get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{name}: expected one of the {len(names)} names, found none{hint}")
        if not 0.0 <= weight <= 1.0:
            raise ConfigError(f"{name}: expected a weight in [0, 1], found {weight}")
    named = np.array([places[name] for name in wanted], dtype=np.int64)
    values = np.array(list(wanted.values()), dtype=np.float64)
    total = float(values.sum())
    if total > 1.0 + _EXACT:
        raise ConfigError(f"expected weights with a sum of at most 1, found {total:g}")
    others = current.copy()
    others[named] = 0.0
    shared, left = float(others.sum()), max(1.0 - total, 0.0)
    if shared == 0.0 and left > ROUNDING:
        who = "there is no other" if named.size == len(names) else "the others have weight 0"
        raise ConfigError(f"expected weights with a sum of 1, as {who}, found {total:g}")
    weights = others * (left / shared) if shared > 0.0 else others
    weights[named] = values
    return weights / weights.sum()
