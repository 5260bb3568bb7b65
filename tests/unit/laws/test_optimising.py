import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.optimising import Limits, best_mixture
from megadga.laws.power import PowerLaw
from megadga.laws.regression import LinearLaw

UNIFORM = np.full(3, 1.0 / 3.0)
# Two sets, each of a domain of its own; the third domain helps neither.
LAW = ExponentialLaw(
    floors=np.array([1.0, 1.0]),
    scales=np.array([1.0, 1.0]),
    slopes=np.array([[-2.0, 1.0, 1.0], [1.0, -2.0, 1.0]]),
)
# The same, where little weight does much.
POWER = PowerLaw(
    floors=np.array([1.0, 1.0]),
    gains=np.array([[2.0, 0.3, 0.1], [0.2, 1.5, 0.1]]),
    exponents=np.array([0.4, 0.7]),
)
EQUAL = np.array([0.5, 0.5])


def grid(step: float) -> FloatArray:
    """All mixtures of three domains in steps of ``step``."""
    ticks = np.arange(0.0, 1.0 + step / 2, step)
    pairs = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    pairs = pairs[pairs.sum(axis=1) <= 1.0 + 1e-12]
    return np.column_stack([pairs, np.maximum(1.0 - pairs.sum(axis=1), 0.0)])


def test_equal_sets_share_the_weight_and_a_domain_that_helps_neither_has_none():
    found = best_mixture(LAW, EQUAL, Limits(np.ones(3), UNIFORM))
    assert found == pytest.approx([0.5, 0.5, 0.0], abs=1e-5)


def test_it_is_where_the_derivatives_are_equal():
    # Of 0.8 e^(-2a + (1 - a)) + 0.2 e^(a - 2 (1 - a)): -2.4 e^(1 - 3a) + 0.6 e^(3a - 2) = 0 at
    # 3a - 2 - (1 - 3a) = log 4, a = (3 + log 4) / 6.
    found = best_mixture(LAW, np.array([0.8, 0.2]), Limits(np.ones(3), UNIFORM))
    assert found[0] == pytest.approx((3.0 + np.log(4.0)) / 6.0, abs=1e-5)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(np.array([0.3, 0.5, 1.0]), UNIFORM),
        Limits(np.ones(3), np.array([0.1, 0.2, 0.7]), 0.25),
        Limits(np.array([0.3, 1.0, 0.65]), np.array([0.1, 0.2, 0.7]), 0.25),
    ],
    ids=["caps", "near a prior", "both"],
)
@pytest.mark.parametrize("objective", [EQUAL, np.array([0.9, 0.1])], ids=["equal", "first"])
@pytest.mark.parametrize("law", [LAW, POWER], ids=["exponential", "power"])
def test_no_mixture_of_a_fine_grid_within_the_limits_is_better(law, limits, objective):
    found = best_mixture(law, objective, limits)
    assert (found <= limits.caps + 1e-9).all()
    assert 0.5 * np.abs(found - limits.prior).sum() <= limits.distance + 1e-6
    points = grid(0.005)
    inside = (points <= limits.caps).all(axis=1)
    inside &= 0.5 * np.abs(points - limits.prior).sum(axis=1) <= limits.distance
    losses = law.predict(points[inside]) @ objective
    assert law.predict(found[None])[0] @ objective <= losses.min() + 1e-9


def test_caps_that_move_the_prior_too_far_are_refused():
    limits = Limits(np.array([0.1, 1.0, 1.0]), np.array([0.6, 0.2, 0.2]), 0.25)
    with pytest.raises(ConfigError, match=r"max-distance: expected at least 0.500"):
        best_mixture(LAW, EQUAL, limits)


@pytest.mark.parametrize("distance", [1.0, 0.2])
def test_a_regression_is_followed_as_far_as_the_limits_allow(distance):
    law = LinearLaw(np.array([[1.0, 2.0, 3.0]]))
    limits = Limits(np.array([0.5, 1.0, 1.0]), UNIFORM, distance)
    found = best_mixture(law, np.ones(1), limits)
    best = (
        [0.5, 0.5, 0.0] if distance == 1.0 else [0.5, 1.0 / 3.0 + 0.2 - 1.0 / 6.0, 1.0 / 3 - 0.2]
    )
    # The mean of the best 128 of 100,000 draws is inside, not at, the vertex.
    assert found == pytest.approx(best, abs=0.02)
    assert (found <= limits.caps + 1e-12).all()
    assert 0.5 * np.abs(found - UNIFORM).sum() <= distance + 1e-9


def test_a_power_law_gives_a_little_to_all_domains_within_their_caps():
    found = best_mixture(POWER, EQUAL, Limits(np.ones(3), UNIFORM))
    assert 0.0 < found[2] < 0.1
    none = best_mixture(POWER, EQUAL, Limits(np.array([1.0, 1.0, 1e-3]), UNIFORM))
    assert none[2] == pytest.approx(1e-3)
