"""The mean of a run's weights, for a static run afterwards. Knows no rule."""

from collections.abc import Mapping

from megadga.arrays import FloatArray
from megadga.mixing.scheduler import MixtureState

_KEY = "average_weights"


def average_weights(state: MixtureState) -> FloatArray:
    """Return the mean of the instantaneous weights over all updates that were applied, ``(K,)``.

    It is what DoReMi, DoGE and GRAPE hand over to the run that follows theirs; before the first
    update, the initial mixture.

    Raises:
        ValueError: If the rule that made ``state`` keeps no average.
    """
    if _KEY not in state.memory:
        kept = ", ".join(state.memory) or "nothing"
        raise ValueError(f"memory: expected {_KEY}, found {kept}: this rule keeps no average")
    return state.memory[_KEY]


def keeps_average(state: MixtureState) -> bool:
    """Tell whether the rule that made ``state`` keeps an average."""
    return _KEY in state.memory


def first_average(weights: FloatArray) -> Mapping[str, FloatArray]:
    """Return the memory of an average over no update yet."""
    return {_KEY: weights.copy()}


def next_average(state: MixtureState, weights: FloatArray) -> Mapping[str, FloatArray]:
    """Return the memory after one more update, which led from ``state`` to ``weights``."""
    average = state.memory[_KEY]
    return {_KEY: average + (weights - average) / (state.num_updates + 1)}
