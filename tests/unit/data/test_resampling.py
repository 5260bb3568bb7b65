"""Windows that are drawn by their norms: with which probability, and unbiased."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.resampling import Resampling, WindowNorms
from megadga.data.sampler import MixtureSampler

SIZES = np.array([3, 5], dtype=np.int64)


def of_one_domain(values, share: float) -> Resampling:
    sizes = np.array([len(values)], dtype=np.int64)
    return Resampling(WindowNorms(sizes, np.array(values, dtype=np.float32)), share)


def test_probabilities_equal_the_values_worked_out_by_hand():
    # q = (1, 3, unknown): the third has the mean, 2. p = 1/2 (1, 3, 2) / 6 + 1/2 1/3.
    shares = of_one_domain([1.0, 3.0, np.nan], 0.5).norms.probabilities(0, uniform_share=0.5)
    np.testing.assert_allclose(shares, np.array([3, 5, 4]) / 12, rtol=1e-15)


@pytest.mark.parametrize("values", [[np.nan, np.nan], [0.0, 0.0]])
def test_windows_of_which_nothing_is_known_are_drawn_alike(values):
    shares = of_one_domain(values, 0.1).norms.probabilities(0, uniform_share=0.1)
    assert shares.tolist() == [0.5, 0.5]


def test_every_point_counts_what_makes_the_mean_over_all_points_the_mean_over_windows():
    # p = (1, 2, 5) / 8 in eighths: eight points, one in the middle of each, are all there is.
    # (1 - 1/4) (1, 4, 13) / 18 + 1/4 1/3 = (1, 2, 5) / 8
    resampling = of_one_domain([1.0, 4.0, 13.0], 0.25)

    windows, factors = resampling.at(0, (np.arange(8) + 0.5) / 8)

    assert windows.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    gradients = np.array([[2.0, -1.0], [0.5, 4.0], [-3.0, 7.0]])
    expected = (factors[:, None] * gradients[windows]).mean(axis=0)
    np.testing.assert_allclose(expected, gradients.mean(axis=0), rtol=1e-14)


@given(
    values=st.lists(st.one_of(st.just(np.nan), st.floats(0.0, 1.5, width=32)), min_size=1),
    share=st.floats(0.01, 1.0),
)
def test_the_expected_gradient_is_the_mean_whatever_the_norms_are(values, share):
    resampling = of_one_domain(values, share)
    shares = resampling.norms.probabilities(0, uniform_share=share)
    ends = np.cumsum(shares)
    middles = np.minimum((ends - shares / 2) / ends[-1], np.nextafter(1.0, 0.0))
    windows, factors = resampling.at(0, middles)

    assert windows.tolist() == list(range(len(values)))
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    # Each is drawn with p_j and counts 1 / (N p_j): one over N in all.
    np.testing.assert_allclose(shares * factors, 1 / len(values), rtol=1e-12)
    assert factors.max() <= 1 / share * (1 + 1e-12)


def test_of_one_window_the_last_norm_counts_and_none_that_is_not_finite():
    norms = WindowNorms.unknown(SIZES)
    places = norms.places(np.array([1, 0, 1, 0]), np.array([4, 2, 4, 1]))
    assert places.tolist() == [7, 2, 7, 1]

    after = norms.observed(places, np.array([0.5, 0.25, 0.75, np.inf]))

    assert np.isnan(norms.values).all()
    assert after.values[[7, 2]].tolist() == [0.75, 0.25]
    assert np.isnan(after.values[[0, 1, 3, 4, 5, 6]]).all()


def test_norms_go_on_over_domains_that_stay_and_grow():
    norms = WindowNorms(SIZES, np.arange(8, dtype=np.float32))
    after = norms.carried(np.array([-1, 1, 0]), np.array([2, 5, 4]))
    expected = [np.nan, np.nan, 3, 4, 5, 6, 7, 0, 1, 2, np.nan]
    np.testing.assert_array_equal(after.values, expected)


def test_a_first_epoch_has_every_window_once_and_later_draws_go_by_the_norms():
    sampler = MixtureSampler(SIZES, global_batch_size=8, seed=3)
    # Of the second domain only window 2 has a gradient; of the first nothing is known.
    values = np.array([np.nan] * 3 + [0.0, 0.0, 1.0, 0.0, 0.0], dtype=np.float32)
    resampling = Resampling(WindowNorms(SIZES, values), 0.01)
    weights = SIZES / 8
    state, plans = sampler.init(), []
    for _ in range(40):
        plan = sampler.plan(state, weights, resampling)
        plain = sampler.plan(state, weights)
        np.testing.assert_array_equal(plan.selection.domains, plain.selection.domains)
        np.testing.assert_array_equal(plan.state_after.cursors, plain.state_after.cursors)
        plans.append(plan)
        state = plan.state_after

    first = plans[0]
    assert first.factors is not None
    assert sorted(first.selection.sequences[first.selection.domains == 1]) == [0, 1, 2, 3, 4]
    assert first.factors.tolist() == [1.0] * 8
    later = np.concatenate([p.selection.sequences[p.selection.domains == 1] for p in plans[1:]])
    assert (later == 2).mean() > 0.95
    for plan in plans[1:]:
        assert plan.factors is not None
        peaked = (plan.selection.domains == 1) & (plan.selection.sequences == 2)
        # It is drawn with 0.99 + 0.01 / 5.
        np.testing.assert_allclose(plan.factors[peaked], 1 / (5 * 0.992), rtol=1e-12)
        np.testing.assert_allclose(plan.factors[plan.selection.domains == 0], 1.0, rtol=1e-12)


def test_a_draw_is_a_function_of_seed_domain_and_number_alone():
    resampling = of_one_domain(np.linspace(0.1, 1.0, 50), 0.2)
    numbers = np.array([4])
    domains, draws = np.zeros(20, dtype=np.int64), np.arange(50, 70)
    windows, factors = resampling.draw(domains, draws, numbers, seed=1)
    order = np.random.default_rng(0).permutation(20)

    found = resampling.draw(domains, draws[order], numbers, seed=1)

    np.testing.assert_array_equal(found[0], windows[order])
    np.testing.assert_array_equal(found[1], factors[order])
    for other in (
        resampling.draw(domains, draws, numbers, seed=2),
        resampling.draw(domains, draws, numbers + 1, seed=1),
        resampling.draw(domains, draws + 100, numbers, seed=1),
    ):
        assert (other[0] != windows).sum() > 10


def test_later_batches_of_the_same_norms_are_drawn_as_the_first_ones_would_be():
    norms = WindowNorms(SIZES, np.linspace(0.1, 1.0, SIZES.sum(), dtype=np.float32))
    used, numbers = Resampling(norms, 0.2), np.array([4, 9])
    domains, draws = np.tile([1, 0], 20), np.arange(40)
    used.draw(domains[:3], draws[:3], numbers, seed=1)

    found = used.draw(domains, draws, numbers, seed=1)

    windows, factors = Resampling(norms, 0.2).draw(domains, draws, numbers, seed=1)
    assert found[0].tolist() == windows.tolist()
    assert found[1].tolist() == factors.tolist()
    for domain in (0, 1):
        shares = norms.probabilities(domain, uniform_share=0.2)
        rows = domains == domain
        expected = 1.0 / (SIZES[domain] * shares[windows[rows]])
        assert factors[rows].tolist() == expected.tolist()


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="uniform_share: expected 0 < uniform_share <= 1"):
        of_one_domain([1.0], 0.0)
