"""The data mixing law (Ye et al., arXiv 2403.16952): losses exponential in the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.laws.fitting import fit_sets, huber, minimise

DELTA = 0.02
"""Residual, in nats, from which a run counts linearly; the paper's code has 0.01 to 0.08."""
_SMALLEST_FLOOR = 1e-3
_PURE = (-10.0, 4.0)
"""Bounds of the logarithm of the reducible loss after training on one domain alone: from nothing
to more than any vocabulary's."""
_FLOORS = (0.2, 0.5, 0.8, 0.95)
"""Where starts have the floor, as shares of the lowest loss."""
_SPREAD = 0.5


@final
@dataclass(frozen=True, eq=False)
class ExponentialLaw:
    """``L_i(r) = c_i + k_i exp(sum_j t_ij r_j)`` for ``M`` sets, weights ``r`` of ``K`` domains.

    On the simplex a constant can move between ``log k_i`` and all ``t_ij``: here the ``t_ij`` of a
    set sum to 0, so that ``k_i`` is the reducible loss at equal weights. A negative ``t_ij`` says
    that domain j lowers the loss of set i more than the domains do on average.

    Attributes:
        floors: ``c``, nats per token, above 0, shape ``(M,)``.
        scales: ``k``, nats per token, above 0, shape ``(M,)``.
        slopes: ``t``, shape ``(M, K)``.
    """

    floors: FloatArray
    scales: FloatArray
    slopes: FloatArray

    def predict(self, weights: FloatArray) -> FloatArray:
        """Return the losses at mixtures of shape ``(N, K)``, shape ``(N, M)``."""
        return self.floors + self.scales * np.exp(weights @ self.slopes.T)

    def gradient(self, weights: FloatArray, objective: FloatArray) -> FloatArray:
        """Return the gradient of a weighted sum of losses in the weights.

        Args:
            weights: A mixture, shape ``(K,)``.
            objective: Of each set, shape ``(M,)``.
        """
        reducible = self.scales * np.exp(self.slopes @ weights)
        return (objective * reducible) @ self.slopes


def fit_exponential(
    weights: FloatArray,
    losses: FloatArray,
    *,
    delta: float = DELTA,
    starts: int = 16,
    seed: int = 0,
    near: ExponentialLaw | None = None,
) -> ExponentialLaw:
    """Fit the law to runs: each set by itself, with Huber's loss, from many starting points.

    The code of the paper draws starts from a grid of ``log c`` and ``log k`` with small random
    ``t``. Here ``c`` is on a grid, and ``log(loss - c)``, linear in the weights, gives the rest by
    least squares, with noise in all starts but the first of each ``c``.

    Args:
        weights: Distributions, shape ``(N, K)``.
        losses: Nats per token, above 0, shape ``(N, M)``.
        delta: Of Huber's loss, in nats, above 0.
        starts: Number of them, at least 1.
        seed: Of the noise.
        near: A law to start from, too; then a single other start is made.
    """
    found = fit_sets(
        losses,
        partial(_fit, weights, delta),
        partial(_starts, weights),
        number=starts,
        seed=seed,
        near=None if near is None else _parameters(near),
    )
    pure = found[:, 1:]
    means = pure.mean(axis=1)
    return ExponentialLaw(np.exp(found[:, 0]), np.exp(means), pure - means[:, None])


def _parameters(law: ExponentialLaw) -> FloatArray:
    """Return ``log c`` and ``log k + t_j`` of each set, shape ``(M, 1 + K)``."""
    return np.column_stack([np.log(law.floors), np.log(law.scales)[:, None] + law.slopes])


def _starts(
    weights: FloatArray, losses: FloatArray, number: int, seed: tuple[int, int]
) -> list[FloatArray]:
    starts: list[FloatArray] = []
    for start in range(number):
        floor = _FLOORS[-1 - start % len(_FLOORS)] * float(losses.min())
        pure = np.linalg.lstsq(weights, np.log(losses - floor), rcond=None)[0]
        if start >= len(_FLOORS):
            rng = np.random.default_rng((*seed, start))
            pure = pure + rng.normal(0.0, _SPREAD, pure.size)
        starts.append(np.concatenate([[np.log(floor)], np.clip(pure, *_PURE)]))
    return starts


def _fit(
    weights: FloatArray, delta: float, losses: FloatArray, starts: Sequence[FloatArray]
) -> FloatArray:
    """Return ``log c`` and ``log k + t_j`` of one set, shape ``(1 + K,)``."""

    def objective(parameters: FloatArray) -> tuple[float, FloatArray]:
        floor = np.exp(parameters[0])
        reducible = np.exp(weights @ parameters[1:])
        loss, slope = huber(floor + reducible - losses, delta)
        return loss, np.concatenate([[floor * slope.sum()], (slope * reducible) @ weights])

    # The largest loss: a law without a reducible part. Above it no floor can be.
    bounds = [(float(np.log(_SMALLEST_FLOOR)), float(np.log(losses.max())))]
    return minimise(objective, starts, bounds=[*bounds, *[_PURE] * weights.shape[1]])
