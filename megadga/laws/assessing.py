"""How far a law can be trusted: errors on held-out mixtures, and fits to resampled runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.fitting import EXTRA
from megadga.laws.observations import DOMAIN, GENERAL, Observations, objective_of
from megadga.laws.power import PowerLaw
from megadga.laws.regression import BoostedLaw, LinearLaw
from megadga.prepare.extras import import_extra

Law = ExponentialLaw | PowerLaw | LinearLaw | BoostedLaw
"""From weights to losses."""
Fit = Callable[[FloatArray, FloatArray], Law]
"""From weights, shape ``(N, K)``, and losses, shape ``(N, M)``, to a law."""
INTERVAL = (0.05, 0.95)
"""Quantiles over resampled runs that an interval is between."""
_RESAMPLED = 200
"""Draws of mixtures, for intervals of rank correlations."""


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
        rank_interval: From 5 to 95 % of it over mixtures drawn with replacement.
        noise: Standard deviation of the losses of runs of one mixture, in nats; None where no
            mixture has several. No law can be nearer than that.
    """

    set: str
    mean_absolute_error: float
    constant_error: float
    rank_correlation: float
    rank_interval: tuple[float, float]
    noise: float | None


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
        _error(
            name,
            observed=observations.losses @ objective,
            found=predicted @ objective,
            constant=constant @ objective,
            mixtures=numbers,
            seed=seed,
        )
        for name, objective in _objectives(observations.sets).items()
    )


def _objectives(sets: tuple[str, ...]) -> dict[str, FloatArray]:
    of_all = (GENERAL,) if any(each.startswith(DOMAIN) for each in sets) else ()
    return {name: objective_of(name, sets) for name in (*of_all, *sets)}


def _error(
    name: str,
    *,
    observed: FloatArray,
    found: FloatArray,
    constant: FloatArray,
    mixtures: IntArray,
    seed: int,
) -> HeldOutError:
    return HeldOutError(
        set=name,
        mean_absolute_error=float(np.abs(found - observed).mean()),
        constant_error=float(np.abs(constant - observed).mean()),
        rank_correlation=rank_correlation(found, observed),
        rank_interval=_rank_interval(found, observed, mixtures, seed),
        noise=_noise(observed, mixtures),
    )


def _noise(observed: FloatArray, mixtures: IntArray) -> float | None:
    """Return the standard deviation within mixtures, pooled; None if each has one run."""
    counts = np.bincount(mixtures)
    freedom = int((counts - 1).sum())
    if not freedom:
        return None
    means = np.bincount(mixtures, weights=observed) / counts
    return float(np.sqrt(np.square(observed - means[mixtures]).sum() / freedom))


def _rank_interval(
    found: FloatArray, observed: FloatArray, mixtures: IntArray, seed: int
) -> tuple[float, float]:
    """Return the interval over mixtures drawn with replacement, all runs of a mixture together.

    The laws that predict them stay as they are.
    """
    rows_of: list[IntArray] = [
        np.flatnonzero(mixtures == each) for each in range(int(mixtures.max()) + 1)
    ]
    correlations: list[float] = []
    for replicate in range(_RESAMPLED):
        rng = np.random.default_rng((seed, replicate))
        drawn: list[int] = rng.integers(len(rows_of), size=len(rows_of)).tolist()
        rows = np.concatenate([rows_of[each] for each in drawn])
        correlations.append(rank_correlation(found[rows], observed[rows]))
    low, high = interval(np.array(correlations))
    return float(low), float(high)


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Spearman's rank correlation; 0 where all values of one are the same."""
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0
    stats: Any = import_extra("scipy.stats", extra=EXTRA)
    ranks = [stats.rankdata(each) for each in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


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
