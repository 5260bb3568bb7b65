"""Limits on how a mixture moves: largest change, warm-up, freeze, noise, general loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.section import PositiveFloat, PositiveFraction, Section


def total_variation(first: FloatArray, second: FloatArray) -> float:
    """Return ``sum_i |first_i - second_i| / 2``, in ``[0, 1]``.

    It is the share of a batch's sequences that come from another domain when one mixture replaces
    the other, and so means the same for 5 domains as for 262,144. Both of shape ``(K,)``.
    """
    return min(float(np.abs(first - second).sum()) / 2.0, 1.0)


def limit_change(before: FloatArray, after: FloatArray, max_change: float) -> FloatArray:
    """Return ``after``, or the mixture towards it that is ``max_change`` away from ``before``.

    The step is shortened along the straight line, so it keeps its direction, and what both ends
    satisfy (a floor, zeros).

    Args:
        before: A distribution, shape ``(K,)``.
        after: Another, shape ``(K,)``.
        max_change: Largest `total_variation`, in ``(0, 1]``; 1 is no limit.
    """
    change = total_variation(before, after)
    if change <= max_change:
        return after
    return before + (max_change / change) * (after - before)


def is_active(num_measured: int, *, warmup: int, freeze_after: int | None) -> bool:
    """Tell whether the next update may move the mixture.

    Args:
        num_measured: Updates so far, counting those that were left out.
        warmup: Updates to leave out at the start.
        freeze_after: Updates after which nothing moves any more; None for never.
    """
    return num_measured >= warmup and (freeze_after is None or num_measured < freeze_after)


def effective_domains(weights: FloatArray) -> float:
    """Return ``exp(-sum_i w_i ln w_i)``, in ``[1, K]``: as many equal weights have this entropy.

    Args:
        weights: A distribution, shape ``(K,)``.
    """
    positive = weights[weights > 0.0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def entropy_alarm(weights: FloatArray, *, min_effective: float) -> bool:
    """Tell whether a mixture has collapsed onto fewer than ``min_effective`` domains.

    Args:
        weights: A distribution, shape ``(K,)``.
        min_effective: Threshold for `effective_domains`.
    """
    return effective_domains(weights) < min_effective


def signal_to_noise(scores: FloatArray, standard_errors: FloatArray) -> float:
    """Return how much the true scores differ between domains, in units of their noise.

    An update moves weight by differences between scores alone. A measured score is ``s_i = m_i +
    e_i``: what it would be over all of the domain, and an error of variance ``se_i^2`` from the
    choice of sequences, independent of the other domains'. With variances over the domains
    (``1/(K-1)``) the expectation is ``E Var(s) = Var(m) + mean(se^2)``, for any ``se_i``, so

        sqrt(max(Var(s) - mean(se^2), 0) / mean(se^2))

    estimates ``std(m) / rms(se)``. Where the domains do not differ it is about 0, at 1 half of
    the variance that an update sees is noise. What the specific sequences leave uncertain moves
    all scores together, and is no part of it.

    Args:
        scores: Finite, shape ``(K,)``, ``K >= 1``.
        standard_errors: At least 0, shape ``(K,)``; infinite where nothing is known of a domain.

    Returns:
        A number in ``[0, inf]``: 0 for equal scores or a single domain, and if a standard error is
        infinite; infinite if scores differ and none of them has any noise.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != standard_errors.shape:
        raise ValueError(
            f"standard_errors: expected shape {scores.shape}, found {standard_errors.shape}"
        )
    spread, noise = standard_deviation(scores), _root_mean_square(standard_errors)
    if spread <= noise or math.isinf(noise):
        return 0.0
    if noise == 0.0:
        return math.inf
    with np.errstate(over="ignore"):
        ratio = np.float64(spread) / noise
    # sqrt(ratio^2 - 1), whose square would overflow first.
    return float(np.sqrt(ratio - 1.0) * np.sqrt(ratio + 1.0))


def standard_deviation(values: FloatArray) -> float:
    """Return it over ``K - 1``; exactly 0 if all are equal, and for a single value.

    Args:
        values: Finite, of any size, shape ``(K,)``, ``K >= 1``.
    """
    half = values / 2.0 - values.min() / 2.0  # the whole difference may overflow
    if (reach := float(half.max())) == 0.0:
        return 0.0
    relative = half / reach  # so might their sum
    correction = math.sqrt(values.size / max(values.size - 1, 1))
    return _root_mean_square(relative - relative.mean()) * correction * reach * 2.0


def _root_mean_square(values: FloatArray) -> float:
    largest = float(np.abs(values).max())
    if largest == 0.0 or math.isinf(largest):
        return largest
    return largest * math.sqrt(np.mean((values / largest) ** 2))  # squares might overflow


_SLACK = 1.5


@final
@dataclass(frozen=True, eq=False)
class EpochBudget:
    """Weights at which no domain is repeated too often over the whole run.

    What is left of a domain's epochs is spread over the steps that are left, so that none of them
    ends long before the run does.

    Attributes:
        max_epochs: Passes over a domain in the run, above 0. Where the run takes all domains
            ``e`` times, at least ``1.5 e``.
        epochs_per_step: Epochs that a step takes of each domain at weight 1, shape ``(K,)``.
        total_steps: Optimizer steps of the run.
    """

    max_epochs: float
    epochs_per_step: FloatArray
    total_steps: int

    def caps(self, epochs: FloatArray, step: int) -> FloatArray:
        """Return the largest weight of each domain from now on, shape ``(K,)``.

        Args:
            epochs: Drawn of each until now, shape ``(K,)``.
            step: Optimizer steps completed.
        """
        mean = self.total_steps / (1.0 / self.epochs_per_step).sum()
        most = max(self.max_epochs, _SLACK * mean)
        left = max(self.total_steps - step, 1)
        return np.maximum(most - epochs, 0.0) / (self.epochs_per_step * left)


_BEST = "best_general_loss"


_ON = "general_guard"


GUARD_MEMORY = frozenset({_BEST, _ON})
"""Names of what a guard remembers of the mean loss over the domains."""


Memory = Mapping[str, FloatArray]


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

    def apply(self, memory: Memory, loss: float | None, prior_pull: float) -> tuple[Memory, float]:
        """Return the memory after an update that is applied, and rho of that update.

        Args:
            memory: After `watch` has taken in the loss.
            loss: Of the last evaluation; None: there was none.
            prior_pull: rho0, in ``[0, 1]``.
        """
        best = float(memory[_BEST][0])
        is_on = loss is not None and not loss <= best + self.max_rise
        pull = max(prior_pull, self.pull) if is_on else prior_pull
        return {**memory, _ON: np.array([float(is_on)])}, pull


def read_guard(memory: Memory) -> GuardReading | None:
    """Return what a guard remembers in the memory of a rule; None if the rule has none."""
    if _ON not in memory:
        return None
    return GuardReading(bool(memory[_ON][0]), float(memory[_BEST][0]))
