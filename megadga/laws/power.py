"""A law of diminishing returns: losses that fall with powers of the weights (arXiv 2507.09404)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.laws.exponential import DELTA
from megadga.laws.fitting import EXTRA, fit_sets, huber, minimise
from megadga.prepare.extras import import_extra

_SMALLEST_FLOOR = 1e-3
_EXPONENTS = (0.02, 1.0)
_GAINS = (-9.0, 10.0)
"""Bounds of ``log b``: from a domain that does nothing for a set to one that leaves it nothing to
learn."""
_FLOORS = (0.2, 0.5, 0.8, 0.95)
"""Where starts have the floor, as shares of the lowest loss."""
_STEEPNESS = (0.8, 0.4)
"""Where starts have the exponent."""
_SPREAD = 0.5
_SMALLEST_WEIGHT = 1e-6
"""Where derivatives of smaller weights are taken: at 0 they are infinite."""


@final
@dataclass(frozen=True, eq=False)
class PowerLaw:
    """``L_i(r) = c_i + 1 / sum_j b_ij r_j^g_i`` for ``M`` sets, weights ``r`` of ``K`` domains.

    The part of the additive law of Shukor et al. (arXiv 2507.09404) that depends on the mixture,
    at one size and number of tokens. They have an exponent for each domain, of any size; here it
    is one a set, which takes ``K - 1`` fewer runs to find, and at most 1: the losses are convex in
    the weights, and a minimum is the only one.

    Attributes:
        floors: ``c``, nats per token, above 0, shape ``(M,)``.
        gains: ``b``, above 0, in one over nats per token, shape ``(M, K)``: one over the reducible
            loss after training on that domain alone.
        exponents: ``g``, in (0, 1], shape ``(M,)``; the smaller, the more the first per cent of a
            domain does.
    """

    floors: FloatArray
    gains: FloatArray
    exponents: FloatArray

    def predict(self, weights: FloatArray) -> FloatArray:
        """Return the losses at mixtures of shape ``(N, K)``, shape ``(N, M)``."""
        powers = weights[:, None, :] ** self.exponents[:, None]
        return self.floors + 1.0 / (powers * self.gains).sum(axis=2)

    def gradient(self, weights: FloatArray, objective: FloatArray) -> FloatArray:
        """Return the gradient of a weighted sum of losses in the weights.

        Args:
            weights: A mixture, shape ``(K,)``. At weights below 1e-6 it is that at 1e-6.
            objective: Of each set, shape ``(M,)``.
        """
        inside = np.maximum(weights, _SMALLEST_WEIGHT)
        exponents = self.exponents[:, None]
        total = (self.gains * inside**exponents).sum(axis=1)
        slopes = self.gains * exponents * inside ** (exponents - 1.0)
        return -(objective / total**2) @ slopes


def fit_power(
    weights: FloatArray,
    losses: FloatArray,
    *,
    delta: float = DELTA,
    starts: int = 16,
    seed: int = 0,
    near: PowerLaw | None = None,
) -> PowerLaw:
    """Fit the law to runs: each set by itself, with Huber's loss, from many starting points.

    ``c`` and ``g`` of the starts are on a grid, and ``1 / (loss - c)``, linear in ``b``, gives the
    rest by least squares with ``b >= 0``, with noise in all starts but the first of each pair.

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
    return PowerLaw(np.exp(found[:, 0]), np.exp(found[:, 2:]), found[:, 1])


def _parameters(law: PowerLaw) -> FloatArray:
    """Return ``log c``, ``g`` and ``log b`` of each set, shape ``(M, 2 + K)``."""
    return np.column_stack([np.log(law.floors), law.exponents, np.log(law.gains)])


def _starts(
    weights: FloatArray, losses: FloatArray, number: int, seed: tuple[int, int]
) -> list[FloatArray]:
    optimize: Any = import_extra("scipy.optimize", extra=EXTRA)
    pairs = [(floor, exponent) for exponent in _STEEPNESS for floor in _FLOORS[::-1]]
    starts: list[FloatArray] = []
    for start in range(number):
        share, exponent = pairs[start % len(pairs)]
        floor = share * float(losses.min())
        gains: FloatArray
        gains, _ = optimize.nnls(weights**exponent, 1.0 / (losses - floor))
        logs: FloatArray = np.log(np.maximum(gains, np.exp(_GAINS[0])))
        if start >= len(pairs):
            rng = np.random.default_rng((*seed, start))
            logs = logs + rng.normal(0.0, _SPREAD, logs.size)
        starts.append(np.concatenate([[np.log(floor), exponent], np.clip(logs, *_GAINS)]))
    return starts


def _fit(
    weights: FloatArray, delta: float, losses: FloatArray, starts: Sequence[FloatArray]
) -> FloatArray:
    """Return ``log c``, ``g`` and ``log b`` of one set, shape ``(2 + K,)``."""
    logs = np.log(np.where(weights > 0.0, weights, 1.0))

    def objective(parameters: FloatArray) -> tuple[float, FloatArray]:
        floor, exponent = np.exp(parameters[0]), parameters[1]
        terms = np.where(weights > 0.0, np.exp(parameters[2:] + exponent * logs), 0.0)
        total = terms.sum(axis=1)
        loss, slope = huber(floor + 1.0 / total - losses, delta)
        of_total = -slope / total**2
        of_exponent = of_total @ (terms * logs).sum(axis=1)
        return loss, np.concatenate([[floor * slope.sum(), of_exponent], of_total @ terms])

    # The largest loss: a law without a reducible part. Above it no floor can be.
    bounds = [(float(np.log(_SMALLEST_FLOOR)), float(np.log(losses.max()))), _EXPONENTS]
    return minimise(objective, starts, bounds=[*bounds, *[_GAINS] * weights.shape[1]])
