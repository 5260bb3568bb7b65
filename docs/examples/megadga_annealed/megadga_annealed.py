"""From one mixture to another along a half cosine: a mixing rule as a package of its own."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import MixtureState, Observed, StepNeeds, StepNumber
from megadga.mixers.rule import RuleContext
from megadga.mixers.simplex import geometric_mixture
from megadga.mixers.weights import Weights
from megadga.section import PositiveFraction, Section


class Annealed(Section):
    """From one mixture to another, geometrically, along a half cosine."""

    initial: Weights = "proportional"
    """Weights at step 0, written as those of type static."""
    final: Weights
    """Weights at the end; above 0 where `initial` is."""
    until: PositiveFraction = 1.0
    """Share of the run's steps after which the weights stay, in (0, 1]."""


@final
@dataclass(frozen=True, eq=False)
class AnnealedRule:
    """``initial^(1 - s) final^s``, normalised, with ``s = (1 - cos(pi step / steps)) / 2``."""

    initial: FloatArray
    final: FloatArray
    steps: float

    def __post_init__(self) -> None:
        if ((self.initial > 0.0) != (self.final > 0.0)).any():
            raise ValueError("final: expected weights above 0 exactly where those of initial are")

    @property
    def observes(self) -> StepNeeds:
        """The number of the step alone."""
        return StepNeeds()

    def init(self) -> MixtureState:
        """Return the first mixture."""
        return MixtureState(self.initial, self.initial, num_updates=0, num_skipped=0)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the mixture of a step."""
        assert isinstance(observed, StepNumber)  # noqa: S101
        share = (1.0 - np.cos(np.pi * min(observed.step / self.steps, 1.0))) / 2.0
        weights = geometric_mixture(self.initial, self.final, share)
        updates = state.num_updates + 1
        return replace(state, weights=weights, averaged_weights=weights, num_updates=updates)


class Extension:
    """What megadga looks for."""

    options = Annealed

    def make(self, options: Annealed, context: RuleContext, /) -> AnnealedRule:
        """Return the rule of a run."""
        return AnnealedRule(
            context.weights("initial", options.initial),
            context.weights("final", options.final),
            options.until * context.total_steps,
        )


EXTENSION = Extension()
