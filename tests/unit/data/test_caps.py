import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.data.sampler import cap_weights, move_surplus, multinomial, systematic


@st.composite
def limited_mixtures(draw):
    """Weights, limits that leave room for a batch, and the batch size."""
    num_domains, num_rows = draw(st.integers(1, 12)), draw(st.integers(1, 60))
    masses = draw(arrays(np.float64, num_domains, elements=st.floats(1e-9, 1.0)))
    masses[draw(arrays(np.bool_, num_domains))] = 0.0
    rich = draw(st.integers(0, num_domains - 1))
    masses[rich] = max(masses[rich], 1e-9)
    limits = draw(arrays(np.int64, num_domains, elements=st.integers(0, num_rows)))
    missing = num_rows - int(limits[masses > 0.0].sum())
    limits[rich] += max(missing, 0)
    return masses / masses.sum(), limits, num_rows


@given(problem=limited_mixtures())
def test_the_capped_mixture_is_nearest_in_kl(problem):
    # By convexity these conditions (Karush-Kuhn-Tucker) are sufficient: it is feasible, domains
    # below their limit keep one common ratio to what they had, and none at its limit had less.
    weights, limits, num_rows = problem
    capped = cap_weights(weights, limits, num_rows)
    ends = limits / num_rows
    assert (capped <= ends * (1 + 1e-12)).all()
    assert capped.sum() == pytest.approx(1.0, abs=1e-12)
    assert (capped[weights == 0.0] == 0.0).all()
    free = (capped < ends * (1 - 1e-9)) & (weights > 0.0)
    if free.any():
        ratios = capped[free] / weights[free]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
        assert (weights[~free] * ratios[0] >= capped[~free] * (1 - 1e-9)).all()


def test_mass_above_a_limit_moves_to_the_others_in_proportion():
    # 8 rows: the first expects 4 and may get 2. The other 6 go to the others as 3 to 1 to 0.
    capped = cap_weights(np.array([0.5, 0.375, 0.125, 0.0]), np.array([2, 8, 8, 8]), 8)
    np.testing.assert_allclose(capped * 8, [2, 4.5, 1.5, 0], rtol=1e-15)


def test_domains_reach_their_limits_one_after_the_other():
    # 8 rows: capping the first hands 2 rows on, which lifts the second from 3 to 4.5, above 4.
    capped = cap_weights(np.array([0.5, 0.375, 0.125]), np.array([2, 4, 8]), 8)
    np.testing.assert_allclose(capped * 8, [2, 4, 2], rtol=1e-15)


def test_limits_that_do_not_bind_change_nothing():
    weights = np.array([0.25, 0.75])
    assert cap_weights(weights, np.array([1, 3]), 4) is weights


def test_tiny_weights_get_all_rows_when_the_others_are_exhausted():
    weights = np.array([1.0 - 1e-15, 5e-324, 1e-300, 0.0])
    capped = cap_weights(weights, np.array([0, 3, 9, 9]), 8)
    np.testing.assert_allclose(capped, [0.0, 0.0, 1.0, 0.0], atol=1e-20)


@given(problem=limited_mixtures(), seed=st.integers(0, 2**32), independent=st.booleans())
def test_no_domain_is_drawn_beyond_its_limit(problem, seed, independent):
    weights, limits, num_rows = problem
    expected = np.minimum(cap_weights(weights, limits, num_rows) * num_rows, limits)
    rng = np.random.default_rng(seed)
    if independent:
        domains = multinomial(expected, num_rows, rng)
    else:
        domains = systematic(expected, num_rows, rng.random())
    found = np.bincount(move_surplus(domains, expected, limits, rng), minlength=weights.size)
    assert found.sum() == num_rows
    assert (found <= limits).all()
    assert (found[weights == 0.0] == 0).all()
    if not independent:
        assert (np.abs(found - expected) <= 1 + 1e-9).all()


def test_surplus_goes_to_domains_that_are_short():
    domains = np.array([0, 0, 0, 0, 1, 2])
    expected, limits = np.array([2.0, 2.0, 2.0, 0.0]), np.array([2, 4, 4, 4])
    moved = move_surplus(domains, expected, limits, np.random.default_rng(0))
    np.testing.assert_array_equal(moved[[0, 1, 4, 5]], [0, 0, 1, 2])
    np.testing.assert_array_equal(np.bincount(moved, minlength=4), [2, 2, 2, 0])
