"""The best mixture of a law, under caps on weights and near a prior."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.errors import ConfigError
from megadga.laws.assessing import Law
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.fitting import EXTRA
from megadga.laws.power import PowerLaw
from megadga.mixers.simplex import project_to_caps
from megadga.prepare.extras import import_extra

_CANDIDATES, _BEST = 100_000, 128
"""As in RegMix's code: mixtures that are tried, and the best that the result is the mean of."""
_NEGLIGIBLE = 1e-6
_FEASIBLE = 1e-6


@final
@dataclass(frozen=True, eq=False)
class Limits:
    """Which mixtures are considered.

    Attributes:
        caps: Largest weight of each domain, in ``(0, 1]``, with a sum of at least 1, shape
            ``(K,)``.
        prior: A distribution that the mixture stays near, shape ``(K,)``.
        distance: In total variation at most, in ``[0, 1]``; 1: any.
    """

    caps: FloatArray
    prior: FloatArray
    distance: float = 1.0

    def feasible(self) -> FloatArray:
        """Return a mixture within the limits: the nearest to the prior within the caps.

        In total variation: what is above its cap goes to the others.

        Raises:
            ConfigError: If that is too far from the prior.
        """
        capped = np.minimum(self.prior, self.caps)
        room = self.caps - capped
        missing = 1.0 - float(capped.sum())
        nearest = capped + room * (missing / float(room.sum())) if missing > 0.0 else capped
        far = 0.5 * float(np.abs(nearest - self.prior).sum())
        if far > self.distance + _FEASIBLE:
            raise ConfigError(
                f"max-distance: expected at least {far:.3f}, as the caps on epochs move the prior "
                f"that far, found {self.distance:g}"
            )
        return nearest / nearest.sum()


def best_mixture(law: Law, objective: FloatArray, limits: Limits, *, seed: int = 0) -> FloatArray:
    """Return the mixture of the lowest weighted sum of losses, shape ``(K,)``.

    Of the exponential law and the power law the sum is convex in the weights, and SLSQP finds its
    minimum. Of regressions, as in RegMix's code, 100,000 mixtures from a Dirichlet around the
    prior are predicted, and the mean of the best 128 is the result; those beyond the limits are
    moved towards a mixture within until they are not.

    Args:
        law: Of ``M`` sets and ``K`` domains.
        objective: Weights of the sets, at least 0, shape ``(M,)``.
        limits: Of the mixture.
        seed: Of the mixtures that are tried.

    Raises:
        ConfigError: If no mixture is within the limits.
    """
    start = limits.feasible()
    match law:
        case ExponentialLaw() | PowerLaw():
            return _minimum(law, objective, limits, start)
        case _:
            candidates = _candidates(limits, start, seed)
            losses = law.predict(candidates) @ objective
            best = np.argsort(losses, kind="stable")[:_BEST]
            return candidates[best].mean(axis=0)


def _minimum(
    law: ExponentialLaw | PowerLaw, objective: FloatArray, limits: Limits, start: FloatArray
) -> FloatArray:
    """Minimise over weights, and over excesses of them above the prior if these are limited."""
    optimize: Any = import_extra("scipy.optimize", extra=EXTRA)
    size = start.size
    near = limits.distance < 1.0
    bounds = [(0.0, float(cap)) for cap in limits.caps]
    ones, zeros = np.ones(size), np.zeros(size)
    if near:
        bounds += [(0.0, 1.0)] * size
        start = np.concatenate([start, np.maximum(start - limits.prior, 0.0)])

    def loss(point: FloatArray) -> float:
        return float(law.predict(point[None, :size])[0] @ objective)

    def slope(point: FloatArray) -> FloatArray:
        gradient = law.gradient(point[:size], objective)
        return np.concatenate([gradient, zeros]) if near else gradient

    total = np.concatenate([ones, zeros]) if near else ones
    constraints = [optimize.LinearConstraint(total, 1.0, 1.0)]
    if near:  # excess_j >= r_j - prior_j, and the excesses sum to the distance at most
        above = np.hstack([-np.eye(size), np.eye(size)])
        excesses = np.concatenate([zeros, ones])
        constraints += [
            optimize.LinearConstraint(above, -limits.prior, np.inf),
            optimize.LinearConstraint(excesses, -np.inf, limits.distance),
        ]
    found = optimize.minimize(
        loss,
        start,
        jac=slope,
        method="SLSQP",
        bounds=bounds,
        constraints=constraints,
        options={"maxiter": 1000, "ftol": 1e-13},
    )
    mixture = np.where(found.x[:size] < _NEGLIGIBLE, 0.0, found.x[:size])
    mixture = project_to_caps(mixture / mixture.sum(), limits.caps)
    assert abs(mixture.sum() - 1.0) < _FEASIBLE
    return check_simplex(mixture / mixture.sum())


def _candidates(limits: Limits, start: FloatArray, seed: int) -> FloatArray:
    """Return mixtures around the prior within the limits, shape ``(_CANDIDATES, K)``.

    Each is on the line from a mixture within the limits to one that was drawn, as far as they
    allow.
    """
    rng = np.random.default_rng(seed)
    support = np.flatnonzero(limits.prior)
    drawn = np.zeros((_CANDIDATES, start.size))
    drawn[:, support] = rng.dirichlet(limits.prior[support], size=_CANDIDATES)
    towards = drawn - start
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(towards > 0.0, (limits.caps - start) / towards, np.inf).min(axis=1)
    share = np.clip(steps, 0.0, 1.0)
    if limits.distance < 1.0:
        share = np.minimum(share, _share_within(limits, start, towards))
    return start + share[:, None] * towards


def _share_within(limits: Limits, start: FloatArray, towards: FloatArray) -> FloatArray:
    """Return how far each line stays within the distance from the prior, by bisection."""
    low, high = np.zeros(len(towards)), np.ones(len(towards))
    for _ in range(40):
        middle = 0.5 * (low + high)
        points = start + middle[:, None] * towards
        inside = 0.5 * np.abs(points - limits.prior).sum(axis=1) <= limits.distance
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low
