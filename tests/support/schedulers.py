"""Schedulers that only tests need."""

import dataclasses

import numpy as np

from megadga.mixers.base import AlignmentNeeds, Alignments, MixtureState, Observed
from megadga.mixers.static import uniform_weights


class FrozenProbing:
    """Has everything measured and moves nothing: what probes leave behind is all that differs.

    Args:
        num_domains: ``K``.
        needs: What is measured besides the inner products.
    """

    def __init__(self, num_domains: int, needs: AlignmentNeeds = AlignmentNeeds()) -> None:
        self.observes = needs
        self._weights = uniform_weights(num_domains)

    def init(self) -> MixtureState:
        return MixtureState(self._weights, self._weights, num_updates=0, num_skipped=0)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        assert isinstance(observed, Alignments)
        assert observed.is_finite()
        return dataclasses.replace(state, num_updates=state.num_updates + 1)


class Remembering:
    """Moves no weight and sums up the alignments in its memory.

    Args:
        num_domains: ``K``.
    """

    observes = AlignmentNeeds()

    def __init__(self, num_domains: int) -> None:
        self._weights = uniform_weights(num_domains)

    def init(self) -> MixtureState:
        nothing = np.zeros(self._weights.size)
        return MixtureState(self._weights, self._weights, 0, 0, {"sum": nothing})

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        assert isinstance(observed, Alignments)
        return dataclasses.replace(
            state,
            num_updates=state.num_updates + 1,
            memory={"sum": state.memory["sum"] + observed.dots},
        )
