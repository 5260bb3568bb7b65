"""What the tests of every kind of law share: mixtures, and how well a fit finds the best one."""

from collections.abc import Callable

import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.optimising import Limits, best_mixture
from megadga.laws.power import PowerLaw

Law = ExponentialLaw | PowerLaw
Fit = Callable[[FloatArray, FloatArray], Law]
"""From weights, shape ``(N, K)``, and losses, shape ``(N, J)``, to a law."""


def drawn_mixtures(number: int, num_domains: int, seed: int = 0) -> FloatArray:
    """Return mixtures that are spread over the simplex, shape ``(number, num_domains)``."""
    return np.random.default_rng((seed, 1)).dirichlet(np.ones(num_domains), number)


def check_gradient(law: Law, *, relative: float) -> None:
    """Compare a law's gradient with finite differences of its losses; it has three domains."""
    objective, at = np.array([0.2, 0.3, 0.5]), np.array([0.2, 0.5, 0.3])
    found = law.gradient(at, objective)
    for index, step in enumerate(np.eye(3) * 1e-6):
        pair = law.predict(np.stack([at + step, at - step])) @ objective
        assert found[index] == pytest.approx((pair[0] - pair[1]) / 2e-6, rel=relative)


def distance_after_noise(law: Law, fit: Fit, seed: int) -> float:
    """Return the total variation of the best mixture and that of a fit to 32 noisy runs.

    The law has four domains; losses have a noise of 0.005.
    """
    weights = drawn_mixtures(32, 4, seed)
    noise = np.random.default_rng((seed, 2)).normal(0.0, 0.005, (32, 4))
    fitted = fit(weights, law.predict(weights) + noise)
    objective = np.array([0.4, 0.3, 0.2, 0.1])
    limits = Limits(np.ones(4), np.full(4, 0.25))
    best, found = (best_mixture(each, objective, limits) for each in (law, fitted))
    return 0.5 * float(np.abs(best - found).sum())
