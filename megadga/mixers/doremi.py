"""DoReMi (arXiv 2305.10429): weight for domains with a loss above a reference model's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    DomainLosses,
    LossNeeds,
    MixtureState,
    Observed,
    first_average,
    next_average,
    skip_update,
    usable_losses,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.simplex import exponentiated_step
from megadga.mixers.weights import Weights
from megadga.section import Fraction, NonNegativeFloat, PositiveInt


class DoremiOptions(RuleOptions):
    """DoReMi's proxy run (arXiv 2305.10429): domains that lag behind a reference get weight."""

    type: Literal["doremi"]
    """How the domains' weights are set."""
    reference: Path
    """Output folder of another run, finished or stopped, relative to this file: its
    latest checkpoint is the reference model, of which every rank holds a whole copy."""
    interval: PositiveInt = 1
    """Optimizer steps between updates of the weights, at least 1; 1: the paper. Batches are read
    ahead only up to the next one."""
    step_size: NonNegativeFloat = 1.0
    """Step of the exponentiated gradient (eta), at least 0, in 1/nats; 1: the paper."""
    smoothing: Fraction = 1e-3
    """Share of every new mixture that is spread evenly, in [0, 1]; 1e-3: the paper."""
    initial: Weights = "uniform"
    """Weights at step 0, written as the weights of type static."""


_EXCESS = "excess"


_NEVER = -1.0


@final
@dataclass(frozen=True, eq=False)
class Doremi:
    """Step 2 of DoReMi, group DRO on excess losses (Xie et al., arXiv 2305.10429, Algorithm 1).

    With ``L_i`` the loss on a domain's sequences and ``L_i^ref`` a reference model's on the same,

        lambda_i = max(L_i - L_i^ref, 0)
        alpha   <- alpha * exp(step_size * lambda) / sum
        alpha   <- (1 - smoothing) * alpha + smoothing / K

    `average_weights` gives the mean over the run, which is what the paper trains the large model
    on (its step 3).

    Paper and code: the sums are over the tokens of a domain, and the excess of each token is
    clipped at 0; here it is that of a domain's mean, as no loss of a token is kept, so that tokens
    ahead of the reference make up for others. The paper draws equally from all domains and weights
    their losses; here they are drawn by the weights. A domain that was not drawn keeps its last
    excess, as in the authors' code; one that never was takes the largest of the others', where
    the code has the logarithm of the vocabulary.

    Attributes:
        initial: The first mixture, shape ``(K,)``; the smoothing lifts zeros.
        step_size: eta, finite, at least 0, in 1/nats; 1 in the paper.
        smoothing: ``c``, in ``[0, 1]``; 1e-3 in the paper.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    step_size: float = 1.0
    smoothing: float = 1e-3

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        if not 0.0 <= self.step_size < float("inf"):
            raise ValueError(f"step_size: expected a finite number >= 0, found {self.step_size}")
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing: expected 0 <= smoothing <= 1, found {self.smoothing}")

    @property
    def observes(self) -> LossNeeds:
        """The losses of training and of the reference model."""
        return LossNeeds(reference=True)

    def init(self) -> MixtureState:
        """Return the initial mixture."""
        weights = check_simplex(self.initial)
        memory = {**first_average(weights), _EXCESS: np.full(weights.size, _NEVER)}
        return MixtureState(weights.copy(), weights.copy(), 0, 0, memory)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one without any sequence.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        if (found := usable_losses(observed, state)) is None:
            return skip_update(state)
        excess = _excess(found, state.memory[_EXCESS])
        scores = np.where(excess == _NEVER, excess.max(), excess)
        stepped = exponentiated_step(state.weights, scores, self.step_size)
        weights = (1.0 - self.smoothing) * stepped + self.smoothing / stepped.size
        return replace(
            state,
            weights=weights,
            averaged_weights=weights,
            num_updates=state.num_updates + 1,
            memory={**next_average(state, weights), _EXCESS: excess},
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: weights and last excess of the domains that stay."""
        return carry(state, self.init(), change, axes={_EXCESS: 0})


def _excess(observed: DomainLosses, last: FloatArray) -> FloatArray:
    assert observed.reference_losses is not None
    with np.errstate(over="ignore"):
        behind = observed.losses - observed.reference_losses
    clipped = np.clip(behind, 0.0, np.finfo(np.float64).max)
    return np.where(observed.counts > 0, clipped, last)


def make_doremi(options: DoremiOptions, context: RuleContext) -> Doremi:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Doremi(
        context.weights("initial", options.initial),
        step_size=options.step_size,
        smoothing=options.smoothing,
    )


RULES = (Rule(DoremiOptions, make_doremi),)
