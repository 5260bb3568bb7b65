"""Importance of domains by the norm of the loss's gradient at the output (arXiv 2311.14468)."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    LossNeeds,
    MixtureState,
    Observed,
    skip_update,
    usable_losses,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.weights import Weights
from megadga.section import PositiveFraction, PositiveInt, Section

_BASE = "base"
_SUMS = "norm_sums"
_MASSES = "norm_masses"


_LARGEST_NORM = 1e30
"""From which norms count as this one: sums of them stay finite. Those of a softmax are below
sqrt(2)."""
_BISECTIONS = 100


class Resample(Section):
    """How windows are drawn again after the first epoch of a domain."""

    uniform_share: PositiveFraction = 0.2
    """Share of draws that go to all windows alike, in (0, 1], the others in proportion to the
    norms; no window counts more than one over it in the loss."""


class GradientNormOptions(RuleOptions):
    """Online importance by gradient norm (arXiv 2311.14468): weight to what is not learned."""

    type: Literal["gradient_norm"]
    """How the domains' weights are set."""
    interval: PositiveInt = 1
    """Optimizer steps between updates of the weights, at least 1. Batches are read ahead only up
    to the next one."""
    initial: Weights = "proportional"
    """The base mixture: weights at step 0, and a factor of every later weight; a domain that it
    gives 0 is never drawn. Written as the weights of type static."""
    momentum: Annotated[float, Field(strict=True, ge=0.0, lt=1.0)] = 0.9
    """Share of the old norm of a domain in the new one at an update that drew it, in [0, 1)."""
    base_share: PositiveFraction = 0.1
    """Share of the base mixture in the weights, in (0, 1]: no domain falls below this share of
    its base weight."""
    resample: Resample | None = None
    """{uniform_share: s}: after the first epoch of a domain its windows are drawn with
    probabilities p in proportion to their last norms, and each of the N counts 1 / (N p) in the
    loss, so that the expected gradient stays; null: every epoch has each window once."""

    @property
    def resampled_uniformly(self) -> float | None:
        """The share in the key ``resample``."""
        return None if self.resample is None else self.resample.uniform_share


@final
@dataclass(frozen=True, eq=False)
class GradientNorm:
    """Importance of domains by the norm of the loss's gradient at the model's output.

    After Salaun, Huang, Georgiev, Mitra, Singh, "Online Importance Sampling for Stochastic
    Gradient Optimization" (arXiv 2311.14468), who sample examples of a classifier in proportion to
    the norm of the derivative of the loss by the network's output: for cross-entropy
    ``|softmax - y|``, with ``y`` the one-hot target. Training computes it anyway, and the variance
    of the gradient is least when what is drawn is drawn in proportion to its gradient's norm.

    A sequence has one output for each of its ``T`` targets. Its norm is the root of their mean
    square, in ``[0, sqrt(2))``,

        q = sqrt(mean_t |softmax_t - y_t|^2)

    which is ``sqrt(T)`` times the norm of the derivative of its mean loss by all outputs: the same
    up to a constant where all sequences have ``S`` targets, and not smaller for a sequence only
    because it has more of them. With the mean ``q_k`` over the sequences of a domain since the
    last update, and the base mixture ``b``,

        n_k <- momentum n_k + (1 - momentum) q_k        (of domains that were drawn)
        w_k  = (1 - base_share) b_k n_k / sum_j b_j n_j + base_share b_k

    where means over few updates are corrected for what they began with, and a domain that was
    never drawn has the mean norm of the others. With equal norms the weights are ``b``.

    The aggregate by domain is ours, as is what the paper's abstract does not say: how a norm is
    remembered, and what keeps a weight above 0.

    Drawing by ``w`` alone trains for another mixture than ``b``, as every rule does. It is the
    paper's importance sampling, which only lowers the variance, where the loss stays over ``b``
    (``training.domain_weights``, or ``Sampling.objective``), and within domains where windows are
    resampled (`megadga.data.resampling`).

    Attributes:
        initial: ``b``, shape ``(K,)``.
        momentum: In ``[0, 1)``.
        base_share: In ``(0, 1]``.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    momentum: float = 0.9
    base_share: float = 0.1

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum: expected 0 <= momentum < 1, found {self.momentum}")
        if not 0.0 < self.base_share <= 1.0:
            raise ValueError(f"base_share: expected 0 < base_share <= 1, found {self.base_share}")

    @property
    def observes(self) -> LossNeeds:
        """The norms of the loss's gradient at the outputs of training."""
        return LossNeeds(output_norms=True)

    def init(self) -> MixtureState:
        """Return the base mixture, with no norm observed yet."""
        base = check_simplex(self.initial)
        memory = {_BASE: base.copy(), _SUMS: np.zeros(base.size), _MASSES: np.zeros(base.size)}
        return MixtureState(base.copy(), base.copy(), 0, 0, memory)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one without any sequence.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        if (found := usable_losses(observed, state)) is None:
            return skip_update(state)
        assert found.output_norms is not None
        drawn, keep = found.counts > 0, self.momentum
        norms = np.minimum(found.output_norms, _LARGEST_NORM)
        sums, masses = state.memory[_SUMS], state.memory[_MASSES]
        memory = {
            **state.memory,
            _SUMS: np.where(drawn, keep * sums + (1.0 - keep) * norms, sums),
            _MASSES: np.where(drawn, keep * masses + (1.0 - keep), masses),
        }
        after = replace(state, num_updates=state.num_updates + 1, memory=memory)
        products = after.memory[_BASE] * _mean_norms(after)
        if (total := products.sum()) == 0.0:
            return after
        share = self.base_share
        weights = (1.0 - share) * (products / total) + share * after.memory[_BASE]
        weights /= weights.sum()
        return replace(after, weights=weights, averaged_weights=weights.copy())

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state with the base mixture whose weights these are, by the present norms.

        A domain of weight 0 stays there.
        """
        memory = {**state.memory, _BASE: self._base_of(weights, _mean_norms(state))}
        return replace(
            state, weights=weights.copy(), averaged_weights=weights.copy(), memory=memory
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change: base mixture and norms of the domains that stay."""
        axes = {_SUMS: 0, _MASSES: 0}
        carried = carry(state, self.init(), change, axes=axes)
        kept = change.same_rule and _BASE in state.memory
        base = change.mixture(state.memory[_BASE]) if kept else carried.weights
        return replace(carried, memory={**carried.memory, _BASE: base})

    def _base_of(self, weights: FloatArray, norms: FloatArray) -> FloatArray:
        """Return ``b`` with ``w_k = b_k ((1 - share) n_k / x + share)`` and ``x = sum_k b_k n_k``.

        For the right ``x``, between the least and the largest norm, ``b`` sums to 1; its sum
        ascends with ``x``.
        """
        low, high = float(norms.min()), float(norms.max())
        base = weights.copy()
        if low == high:
            return base
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            base = weights / ((1.0 - self.base_share) * norms / middle + self.base_share)
            low, high = (low, middle) if base.sum() > 1.0 else (middle, high)
        return base / base.sum()


def _mean_norms(state: MixtureState) -> FloatArray:
    """Return ``n``, shape ``(K,)``; 1 of all domains before any was drawn."""
    sums, masses = state.memory[_SUMS], state.memory[_MASSES]
    known = masses > 0.0
    if not known.any():
        return np.ones(masses.size)
    means = sums[known] / masses[known]
    norms = np.full(masses.size, means.mean())
    norms[known] = means
    return norms


def make_gradient_norm(options: GradientNormOptions, context: RuleContext) -> GradientNorm:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return GradientNorm(
        context.weights("initial", options.initial),
        momentum=options.momentum,
        base_share=options.base_share,
    )


RULES = (Rule(GradientNormOptions, make_gradient_norm),)
