import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.data.sampler import multinomial, occurrences, systematic

offsets = st.floats(0.0, 1.0, exclude_max=True)
batch_sizes = st.integers(1, 300)
almost_one = float(np.nextafter(1.0, 0.0))


@st.composite
def mixtures(draw):
    """Weights of very different sizes, some of them 0, that sum to 1 up to rounding."""
    masses = draw(
        st.lists(st.one_of(st.just(0.0), st.floats(-40, 0).map(np.exp)), min_size=1, max_size=30)
    )
    masses = np.array(masses)
    masses[draw(st.integers(0, masses.size - 1))] = 1.0
    return masses / masses.sum()


def counts(domains, num_domains):
    return np.bincount(domains, minlength=num_domains)


@given(weights=mixtures(), num_rows=batch_sizes, offset=offsets)
@example(weights=np.full(10, 0.1), num_rows=10, offset=0.0)
@example(weights=np.full(49, 1 / 49), num_rows=49, offset=almost_one)
@example(weights=np.array([1.0]), num_rows=1, offset=almost_one)
def test_systematic_counts_are_the_expectation_rounded_down_or_up(weights, num_rows, offset):
    expected = weights * num_rows
    found = counts(systematic(weights, num_rows, offset), weights.size)
    assert found.sum() == num_rows
    assert (found >= np.floor(expected - 1e-9)).all()
    assert (found <= np.ceil(expected + 1e-9)).all()
    assert (found[weights == 0.0] == 0).all()


@given(weights=mixtures(), num_rows=batch_sizes)
def test_systematic_draws_are_unbiased_over_the_offset(weights, num_rows):
    # The points of n evenly spaced offsets are n times as dense a grid on the same line, so a
    # domain's total over them is n times its expectation, rounded down or up.
    num_offsets = 64
    total = np.zeros(weights.size)
    for offset in np.arange(num_offsets) / num_offsets:
        total += counts(systematic(weights, num_rows, float(offset)), weights.size)
    assert (np.abs(total / num_offsets - weights * num_rows) <= 1 / num_offsets + 1e-9).all()


@given(weights=mixtures(), num_rows=batch_sizes, offset=offsets, exponent=st.integers(-900, 900))
def test_the_unit_of_the_weights_does_not_matter(weights, num_rows, offset, exponent):
    scaled = weights * 2.0**exponent
    np.testing.assert_array_equal(
        systematic(scaled, num_rows, offset), systematic(weights, num_rows, offset)
    )


def test_rounding_never_moves_the_last_row_out_of_range():
    # For one in twenty sums, scaling the last end to B leaves it one unit in the last place short,
    # which is where the last point is.
    rng = np.random.default_rng(0)
    for _ in range(500):
        num_rows = int(rng.integers(1, 2000))
        weights = np.append(rng.uniform(0.5, 2.0, rng.integers(1, 30)), 0.0)
        assert systematic(weights, num_rows, almost_one)[-1] < weights.size - 1


@pytest.mark.parametrize("error", [-1e-9, 1e-9])
@pytest.mark.parametrize("offset", [0.0, almost_one])
def test_weights_that_sum_approximately_to_one_give_all_rows(error, offset):
    first, second, third = counts(
        systematic(np.array([0.3, 0.7 + error, 0.0]), 8, offset), num_domains=3
    )
    assert (first + second, third) == (8, 0)
    assert first in {2, 3}


def test_whole_expectations_are_met_exactly_at_any_offset():
    expected = np.array([3.0, 0.0, 1.0, 7.0, 0.0])
    for offset in np.linspace(0.0, almost_one, 101):
        found = counts(systematic(expected, 11, float(offset)), 5)
        np.testing.assert_array_equal(found, expected)


@given(weights=mixtures(), num_rows=batch_sizes, seed=st.integers(0, 2**32))
def test_multinomial_draws_come_from_domains_with_a_weight(weights, num_rows, seed):
    domains = multinomial(weights, num_rows, np.random.default_rng(seed))
    assert domains.shape == (num_rows,)
    assert (weights[domains] > 0.0).all()


def test_multinomial_draws_are_independent():
    # Sums of B independent draws have mean B w and variance B w (1 - w); systematic ones have
    # almost none. Five standard errors of the mean and of the variance over 2000 batches.
    weights, num_rows, rng = np.array([0.2, 0.5, 0.3]), 64, np.random.default_rng(3)
    found = np.array([counts(multinomial(weights, num_rows, rng), 3) for _ in range(2000)])
    variance = num_rows * weights * (1 - weights)
    bound = 5 * np.sqrt(variance / 2000)
    assert (np.abs(found.mean(axis=0) - num_rows * weights) < bound).all()
    assert (np.abs(found.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / 2000)).all()


@given(domains=arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 6)))
def test_occurrences_count_the_rows_before_of_the_same_domain(domains):
    expected = [int((domains[:row] == domain).sum()) for row, domain in enumerate(domains)]
    assert occurrences(domains).tolist() == expected
