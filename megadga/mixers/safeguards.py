"""Limits on how a mixture moves: largest change, warm-up, freeze, noise, repetition."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray


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
_ACCURACY = 1e-12
_MOST_ITERATIONS = 100  # a few are enough


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


@final
@dataclass(frozen=True, eq=False)
class RepeatDiscount:
    """Weights at which a token counts for less the more often it is repeated.

    Where data are few, a token's ``r``-th repetition is worth ``exp(-r / decay)`` of its first
    pass (Muennighoff et al., arXiv 2305.16264, section 3; ``R*`` there). A domain's weight is
    discounted by the repetitions that it comes to by the end of the run at that weight, so that
    what it loses goes to others by what these still have to give, and not by their weights alone.

    Attributes:
        decay: Repetitions that divide the worth by e, above 0.
        epochs_per_step: Epochs that a step takes of each domain at weight 1, above 0, shape
            ``(K,)``.
        total_steps: Optimizer steps of the run.
    """

    decay: float
    epochs_per_step: FloatArray
    total_steps: int

    def apply(self, weights: FloatArray, epochs: FloatArray, step: int) -> FloatArray:
        """Return ``w`` with ``w_i`` proportional to ``weights_i exp(-r_i / decay)``.

        ``r_i = max(epochs_i + w_i epochs_per_step_i (total_steps - step) - 1, 0)``. Zeros stay
        zero.

        Args:
            weights: A distribution, shape ``(K,)``.
            epochs: Drawn of each domain until now, shape ``(K,)``.
            step: Optimizer steps completed.

        Returns:
            ``weights`` itself if no domain is repeated at them, else a new array.
        """
        still = self.epochs_per_step * max(self.total_steps - step, 1)
        if (epochs + still * weights <= 1.0)[weights > 0.0].all():
            return weights
        support = np.flatnonzero(weights)
        logs, done, still = np.log(weights[support]), epochs[support], still[support]
        least, most, scale = 0.0, math.inf, 0.0
        found, slopes = self._discounted(logs, done, still)
        # The sum grows with the scale: Newton's method, inside of what brackets the solution.
        for _ in range(_MOST_ITERATIONS):
            excess = found.sum() - 1.0
            if abs(excess) <= _ACCURACY:
                break
            least, most = (scale, most) if excess < 0.0 else (least, scale)
            scale -= excess / slopes.sum()
            if not least < scale < most:
                scale = (least + most) / 2.0 if most < math.inf else 2.0 * least + 1.0
            found, slopes = self._discounted(logs + scale, done, still)
        discounted = np.zeros_like(weights)
        discounted[support] = found / found.sum()
        return discounted

    def _discounted(
        self, logs: FloatArray, done: FloatArray, still: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return ``w`` with ``log w + r / decay = logs``, and its derivatives by ``logs``."""
        unrepeated = np.log(np.maximum(1.0 - done, np.finfo(np.float64).tiny) / still)
        solution = _wright_omega(logs + np.log(still / self.decay) - (done - 1.0) / self.decay)
        weights = np.where(
            logs > unrepeated, self.decay / still * solution, np.exp(np.minimum(logs, unrepeated))
        )
        return weights, np.where(logs > unrepeated, weights / (1.0 + solution), weights)


def _wright_omega(values: FloatArray) -> FloatArray:
    """Return ``x`` with ``x + log x = values``, by Newton's method.

    It starts below the solution and comes up to it, as the left side is concave.
    """
    small = np.exp(np.minimum(values, 1.0))
    start = np.where(values > 1.0, values - np.log(np.maximum(values, 1.0)), small / (1.0 + small))
    found = np.maximum(start, np.finfo(np.float64).tiny)
    for _ in range(_MOST_ITERATIONS):
        after = found * (1.0 + values - np.log(found)) / (1.0 + found)
        done = np.abs(after - found) <= _ACCURACY * found
        found = np.maximum(after, np.finfo(np.float64).tiny)
        if done.all():
            break
    return found
