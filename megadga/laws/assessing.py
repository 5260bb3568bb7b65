"""How far a law can be trusted: errors on held-out mixtures, and fits to resampled runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.fitting import EXTRA
from megadga.laws.observations import DOMAIN, GENERAL, Observations, objective_of
from megadga.laws.regression import BoostedLaw, LinearLaw
from megadga.prepare.extras import import_extra

Law = ExponentialLaw | LinearLaw | BoostedLaw
"""From weights to losses."""
Fit = Callable[[FloatArray, FloatArray], Law]
"""From weights, shape ``(N, K)``, and losses, shape ``(N, M)``, to a law."""
INTERVAL = (0.05, 0.95)
"""Quantiles over resampled runs that an interval is between."""


@final
@dataclass(frozen=True)
class HeldOutError:
    """How a law predicts the losses of a set at mixtures that it was not fitted to.

    Attributes:
        set: Its name, or ``general``.
        mean_absolute_error: In nats.
        constant_error: Likewise, of predicting the mean of the mixtures that were fitted.
        rank_correlation: Spearman's, of predicted and observed losses over all held-out runs; 0
            where one of them is the same for all.
    """

    set: str
    mean_absolute_error: float
    constant_error: float
    rank_correlation: float


def cross_validate(
    observations: Observations, fit: Fit, *, folds: int, seed: int
) -> tuple[HeldOutError, ...]:
    """Fit to all mixtures but a fold, predict the fold, and compare, for each fold.

    Args:
        observations: Of at least two mixtures. Runs of the same mixture are in the same fold.
        fit: As the law itself is fitted.
        folds: At least 2; no more than there are mixtures.
        seed: Of the division.
    """
    numbers = observations.mixtures()
    mixtures = int(numbers.max()) + 1
    order = np.random.default_rng(seed).permutation(mixtures)
    fold_of = np.empty(mixtures, dtype=np.int64)
    fold_of[order] = np.arange(mixtures) % min(folds, mixtures)
    predicted = np.empty_like(observations.losses)
    constant = np.empty_like(observations.losses)
    for fold in range(min(folds, mixtures)):
        held_out = fold_of[numbers] == fold
        kept = observations.of(np.flatnonzero(~held_out))
        law = fit(kept.weights, kept.losses)
        predicted[held_out] = law.predict(observations.weights[held_out])
        constant[held_out] = kept.losses.mean(axis=0)
    return tuple(
        _error(name, objective, observations.losses, predicted, constant)
        for name, objective in _objectives(observations.sets).items()
    )


def _objectives(sets: tuple[str, ...]) -> dict[str, FloatArray]:
    of_all = (GENERAL,) if any(each.startswith(DOMAIN) for each in sets) else ()
    return {name: objective_of(name, sets) for name in (*of_all, *sets)}


def _error(
    name: str,
    objective: FloatArray,
    losses: FloatArray,
    predicted: FloatArray,
    constant: FloatArray,
) -> HeldOutError:
    observed, found = losses @ objective, predicted @ objective
    return HeldOutError(
        set=name,
        mean_absolute_error=float(np.abs(found - observed).mean()),
        constant_error=float(np.abs(constant @ objective - observed).mean()),
        rank_correlation=rank_correlation(found, observed),
    )


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Spearman's rank correlation; 0 where all values of one are the same."""
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0
    stats: Any = import_extra("scipy.stats", extra=EXTRA)
    return float(stats.spearmanr(first, second).statistic)


def resample(
    observations: Observations, fit: Fit, *, replicates: int, seed: int
) -> tuple[Law, ...]:
    """Return laws fitted to runs drawn with replacement, of which intervals are made.

    Args:
        observations: What the law itself is fitted to.
        fit: Likewise, or from the law itself as the start.
        replicates: Number of them, at least 0.
        seed: Each has draws of its own.
    """
    number = len(observations.runs)
    laws: list[Law] = []
    for replicate in range(replicates):
        rows = np.random.default_rng((seed, replicate)).integers(number, size=number)
        drawn = observations.of(rows)
        laws.append(fit(drawn.weights, drawn.losses))
    return tuple(laws)


def interval(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of an interval over replicates, the first axis, of at least one."""
    low, high = np.quantile(values, INTERVAL, axis=0)
    return low, high
