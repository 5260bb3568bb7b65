"""What is known of each domain's score from all updates so far: Kalman filters.

Scores are noisy and change slowly. With the standard deviation of a single sequence's score as the
unit, update ``u`` observes of each domain that it measured, on ``n_i(u)`` sequences,

    s_i(u) = c(u) + m_i(u) + e_i(u),       e_i(u) ~ N(0, 1 / n_i(u))

where ``c(u)``, common to all domains, is free in every update (weights move by differences alone),
and the domain's own part is a stationary autoregressive process over the updates:

    m_i(u + 1) = phi m_i(u) + w_i(u),      w_i(u) ~ N(0, (1 - phi^2) tau^2)

How much the domains differ (``tau``) and for how many updates (``phi = exp(-1 / updates)``) is
estimated from the run: a filter runs for each pair of a grid, and the filters are averaged by
their likelihood. So is the unit, over the last observations, as the scale of gradients falls
during training. What was measured long ago is forgotten at the rate ``phi``, and scores that
differ by noise alone are estimated as equal (an empirical Bayes estimate, as that of James and
Stein).
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.base import Memory

TAUS = np.sqrt([0.02, 0.1, 0.5, 2.5])
"""Standard deviations of the domains' own parts that are tried, in units of a sequence's noise."""
LIFETIMES = np.array([4.0, 16.0, 64.0, 256.0])
"""Updates that are tried for how long they last."""
_VARIANCES = np.repeat(TAUS**2, LIFETIMES.size)[:, np.newaxis]
_PHIS = np.tile(np.exp(-1.0 / LIFETIMES), TAUS.size)[:, np.newaxis]

_NOISE_MEMORY = 128.0  # observations that the unit is estimated from
_LIKELIHOOD_MEMORY = 2048.0  # observations that the filters are compared by
_LARGEST_INNOVATION = 5.0  # in standard deviations: scores have heavy tails

_MEANS, _POSTERIOR_VARIANCES = "filter_means", "filter_variances"
_LIKELIHOODS, _NOISE = "filter_log_likelihoods", "filter_noise"


DOMAIN_AXES = {_MEANS: 1, _POSTERIOR_VARIANCES: 1}
"""Axis of the domains in the arrays that have one."""
FILTER_MEMORY = frozenset({_MEANS, _POSTERIOR_VARIANCES, _LIKELIHOODS, _NOISE})
"""Names of all arrays that are remembered."""


@final
@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of the domains' scores after an update.

    Attributes:
        means: Of each domain's own part, in units of the noise of one sequence, shape ``(K,)``;
            their mean is 0.
        variances: Of the same, shape ``(K,)``.
    """

    means: FloatArray
    variances: FloatArray

    @property
    def standardized(self) -> FloatArray:
        """The means in standard deviations of the domains' true scores, shape ``(K,)``.

        That deviation is estimated by what is known of the scores and what is not,
        ``sqrt(mean(means^2 + variances))``. The standard deviation of the result is thus at most
        1, where the domains are known well, and is closer to 0 the less is known.
        """
        return self.means / np.sqrt(np.mean(self.means**2 + self.variances))


def first_memory(num_domains: int) -> Memory:
    """Return what is remembered before the first update."""
    return {
        _MEANS: np.zeros((_PHIS.size, num_domains)),
        _POSTERIOR_VARIANCES: np.repeat(_VARIANCES, num_domains, axis=1),
        _LIKELIHOODS: np.zeros(_PHIS.size),
        _NOISE: np.zeros(2),
    }


def filtered(
    memory: Memory, scores: FloatArray, counts: IntArray, standard_errors: FloatArray | None
) -> Memory:
    """Return what is remembered after an update.

    Args:
        memory: Before it.
        scores: Finite wherever a domain was measured, shape ``(K,)``.
        counts: Sequences that each domain was measured on, 0 for none, shape ``(K,)``.
        standard_errors: Of the scores, shape ``(K,)``, read where ``counts`` is above 1; None if
            they are not known.
    """
    measured = np.flatnonzero(counts)
    means = _PHIS * memory[_MEANS]
    variances = _VARIANCES + _PHIS**2 * (memory[_POSTERIOR_VARIANCES] - _VARIANCES)
    predicted = {**memory, _MEANS: means, _POSTERIOR_VARIANCES: variances}
    if measured.size == 0:
        return predicted
    numbers = counts[measured].astype(np.float64)
    errors = None if standard_errors is None else standard_errors[measured]
    share = _shares(memory[_LIKELIHOODS])
    expected = (share @ means[:, measured], share @ variances[:, measured])
    noise = _next_noise(memory[_NOISE], scores[measured], numbers, errors, expected)
    if noise[1] == 0.0:  # the scores are equal: there is no unit to measure differences in
        return predicted
    with np.errstate(over="ignore"):
        found = np.nan_to_num(scores[measured] / noise[1])
    means[:, measured], variances[:, measured], log_likelihoods = kalman_update(
        means[:, measured], variances[:, measured], found, 1.0 / numbers
    )
    kept = np.exp(-measured.size / _LIKELIHOOD_MEMORY)
    total = kept * memory[_LIKELIHOODS] + log_likelihoods
    return {**predicted, _LIKELIHOODS: total - total.max(), _NOISE: noise}


def posterior(memory: Memory) -> Posterior:
    """Return the average of the filters by their likelihood."""
    share = _shares(memory[_LIKELIHOODS])
    means = share @ memory[_MEANS]
    between = share @ (memory[_MEANS] - means) ** 2
    variances = share @ memory[_POSTERIOR_VARIANCES] + between
    return Posterior(means - means.mean(), variances)


def read_posterior(memory: Memory) -> Posterior | None:
    """Return what is known by the memory of a rule; None if the rule does not filter."""
    return posterior(memory) if _MEANS in memory else None


def kalman_update(
    means: FloatArray, variances: FloatArray, scores: FloatArray, noise: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return posterior means, variances and log-likelihoods of J filters for one observation.

    The common part is estimated by generalised least squares and taken off.

    Args:
        means: Predicted, shape ``(J, N)``.
        variances: Of the predictions, above 0, shape ``(J, N)``.
        scores: Observed, shape ``(N,)``.
        noise: Variances of their errors, above 0, shape ``(N,)``.

    Returns:
        Arrays of shapes ``(J, N)``, ``(J, N)`` and ``(J,)``. Innovations beyond five standard
        deviations count as five. The likelihoods lack what is the same for all filters.
    """
    totals = variances + noise
    offsets = scores / 2.0 - means / 2.0  # the whole difference may overflow
    precisions = 1.0 / totals
    shares = precisions / precisions.sum(axis=1, keepdims=True)
    common = (shares * offsets).sum(axis=1, keepdims=True)
    limits = _LARGEST_INNOVATION * np.sqrt(totals)
    innovations = 2.0 * np.clip(offsets - common, -limits / 2.0, limits / 2.0)
    gains = variances / totals
    log_likelihoods = -0.5 * (innovations**2 / totals + np.log(totals)).sum(axis=1)
    return means + gains * innovations, variances * (1.0 - gains), log_likelihoods


def _shares(log_likelihoods: FloatArray) -> FloatArray:
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max())
    return likelihoods / likelihoods.sum()


def _next_noise(
    noise: FloatArray,
    scores: FloatArray,
    numbers: FloatArray,
    standard_errors: FloatArray | None,
    expected: tuple[FloatArray, FloatArray],
) -> FloatArray:
    """Return the degrees of freedom and the value of a sequence's estimated standard deviation.

    From innovations, and from differences of sequences of the same domain where there are any.

    Args:
        noise: Before the update; zeros before the first.
        scores: Observed, shape ``(N,)``.
        numbers: Sequences of each, shape ``(N,)``.
        standard_errors: Of the scores, shape ``(N,)``; None if they are not known.
        expected: Predicted means and their variances, in units of the noise, shapes ``(N,)``.
    """
    known, deviation = noise.tolist()
    means, variances = expected
    errors = np.zeros_like(scores)
    if standard_errors is not None:
        errors = np.where(numbers > 1.0, standard_errors, 0.0)
    # Squares of the scores may overflow.
    unit = max(deviation, float(np.abs(scores).max()), float(errors.max()))
    if unit == 0.0:
        return noise
    deviation, scores, errors = deviation / unit, scores / unit, errors / unit
    totals = variances + 1.0 / numbers
    offsets = scores - deviation * means
    common = (offsets / totals).sum() / (1.0 / totals).sum()
    squares = (offsets - common) ** 2 / totals
    if deviation > 0.0:
        squares = np.minimum(squares, (_LARGEST_INNOVATION * deviation) ** 2)
    total, freedom = squares.sum(), scores.size - 1.0
    if standard_errors is not None:
        others = numbers - 1.0
        total, freedom = total + others @ (numbers * errors**2), freedom + others.sum()
    if freedom == 0.0:
        return noise
    known *= np.exp(-freedom / _NOISE_MEMORY)
    variance = (known * deviation**2 + total) / (known + freedom)
    return np.array([known + freedom, unit * np.sqrt(variance)])
