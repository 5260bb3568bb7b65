"""What holds weights back while the mean validation loss over the domains has risen."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import Memory
from megadga.mixers.simplex import exponentiated_step, geometric_mixture
from megadga.section import PositiveFloat, PositiveFraction, Section

_BEST = "best_general_loss"


_ON = "general_guard"


GUARD_MEMORY = frozenset({_BEST, _ON})
"""Names of what a guard remembers of the mean loss over the domains."""


@dataclass(frozen=True)
class GuardReading:
    """What a guard remembers.

    Attributes:
        is_on: Whether the last update that was applied was pulled by it.
        best: The least general loss that updates saw, nats per token; infinite before the first.
    """

    is_on: bool
    best: float


@final
class GeneralGuard(Section):
    """A stronger pull while the mean validation loss over the domains has risen.

    To the prior, or to the mixture that a rule has for it.

    With ``L`` that loss at the last evaluation before an update, and ``rho0`` the pull that a rule
    has anyway,

        best <- min(best, L)
        rho  =  max(rho0, pull)  if L > best + max_rise,  else rho0

    A loss that is not a number is above any other. Before the first evaluation nothing is.
    """

    max_rise: PositiveFloat
    """Nats per token above its best so far that this loss may be, above 0."""
    pull: PositiveFraction
    """Share of the mixture that is pulled to in updates meanwhile, if `prior_pull` is less, in
    (0, 1]."""

    def first(self) -> Memory:
        """Return the memory before any evaluation."""
        return {_BEST: np.array([math.inf]), _ON: np.zeros(1)}

    def watch(self, memory: Memory, loss: float | None) -> Memory:
        """Return the memory that has taken in the last evaluation; None: there was none."""
        return memory if loss is None else {**memory, _BEST: np.fmin(memory[_BEST], loss)}

    def apply(self, memory: Memory, loss: float | None) -> Memory:
        """Return the memory after an update that is applied: whether the guard is on in it.

        Args:
            memory: After `watch` has taken in the loss.
            loss: Of the last evaluation; None: there was none.
        """
        best = float(memory[_BEST][0])
        is_on = loss is not None and not loss <= best + self.max_rise
        return {**memory, _ON: np.array([float(is_on)])}


def read_guard(memory: Memory) -> GuardReading | None:
    """Return what a guard remembers in the memory of a rule; None if the rule has none."""
    if _ON not in memory:
        return None
    return GuardReading(bool(memory[_ON][0]), float(memory[_BEST][0]))


@final
@dataclass(frozen=True, eq=False)
class Pull:
    """What weights are pulled to, and how far.

    Attributes:
        share: rho, in ``[0, 1]``, geometric; 0 leaves weights as they are, to the bit.
        general: The guard's mixture, above 0, shape ``(K,)``; None: the prior.
    """

    share: float
    general: FloatArray | None = None

    def pulled(self, weights: FloatArray, prior: FloatArray) -> FloatArray:
        """Return ``weights^(1 - rho) towards^rho``, renormalised; all of shape ``(K,)``."""
        if self.share == 0.0:
            return weights
        towards = prior if self.general is None else self.general
        return geometric_mixture(weights, towards, self.share)

    def prior_before(
        self, weights: FloatArray, scores: FloatArray, step_size: float
    ) -> FloatArray:
        """Return the prior from which a step and then the pull lead to ``weights``.

        ``pulled(prior exp(step_size * scores), prior)`` is ``prior exp((1 - rho) step_size *
        scores)`` where the prior is pulled to. Else the pull is taken back first; at rho = 1
        nothing shows of the prior, and it is ``weights``.

        Args:
            weights: A distribution, shape ``(K,)``.
            scores: Shape ``(K,)``.
            step_size: eta.
        """
        if self.general is None or self.share == 1.0:
            return exponentiated_step(weights, -scores, (1.0 - self.share) * step_size)
        before = geometric_mixture(weights, self.general, -self.share / (1.0 - self.share))
        return exponentiated_step(before, -scores, step_size)


def pull_of(
    guard: GeneralGuard | None, memory: Memory, *, prior_pull: float, general: FloatArray | None
) -> Pull:
    """Return the pull of the last update that was applied.

    Args:
        guard: The rule's; None: it has none.
        memory: After that update, as `GeneralGuard.apply` returns it.
        prior_pull: rho0, in ``[0, 1]``.
        general: What the guard pulls to; None: the prior.
    """
    reading = read_guard(memory)
    if guard is None or reading is None or not reading.is_on:
        return Pull(prior_pull)
    return Pull(max(prior_pull, guard.pull), general)
