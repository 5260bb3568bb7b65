import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.safeguards import (
    EpochBudget,
    RepeatDiscount,
    effective_domains,
    entropy_alarm,
    is_active,
    limit_change,
    total_variation,
)


@st.composite
def pairs(draw):
    """Two mixtures of the same domains, with zeros."""
    masses = arrays(np.float64, draw(st.integers(1, 12)), elements=st.floats(0.0, 1.0))
    found = [draw(masses.filter(lambda mass: mass.sum() > 1e-3)) for _ in range(2)]
    return [mass / mass.sum() for mass in found]


def test_total_variation_is_the_share_of_a_batch_that_changes_domain():
    # Of ten sequences, three leave the first domain and one the second.
    before, after = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    assert total_variation(before, after) == pytest.approx(0.4, rel=1e-15)


def test_a_step_that_goes_too_far_is_shortened_along_its_line():
    # Total variation 0.4; a quarter of the way is 0.1.
    found = limit_change(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6]), 0.1)
    np.testing.assert_allclose(found, [0.425, 0.275, 0.3], rtol=1e-14)


def test_a_step_within_the_limit_keeps_its_bits():
    before, after = np.array([0.5, 0.5]), np.array([0.7, 0.3])
    assert limit_change(before, after, 0.3) is after


@given(pair=pairs(), limit=st.floats(1e-3, 1.0))
def test_no_step_goes_further_than_the_limit(pair, limit):
    before, after = pair
    found = limit_change(before, after, limit)
    assert total_variation(before, found) <= limit * (1 + 1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (found >= np.minimum(before, after) - 1e-16).all()


@given(pair=pairs())
def test_no_limit_changes_no_bit(pair):
    before, after = pair
    assert limit_change(before, after, 1.0) is after


def test_updates_count_between_the_warmup_and_the_freeze():
    active = [is_active(number, warmup=2, freeze_after=4) for number in range(6)]
    assert active == [False, False, True, True, False, False]
    assert is_active(10**9, warmup=0, freeze_after=None)


def test_effective_domains_of_equal_weights_are_their_number():
    assert effective_domains(np.array([0.25, 0.25, 0, 0.25, 0.25])) == pytest.approx(4, rel=1e-15)
    assert effective_domains(np.array([0.0, 1.0])) == 1.0
    # Weights 1/2, 1/4, 1/4: entropy 3/2 ln 2.
    found = effective_domains(np.array([0.5, 0.25, 0.25]))
    assert found == pytest.approx(2 * math.sqrt(2), rel=1e-15)


def test_the_alarm_goes_off_below_the_least_number_of_domains():
    weights = np.array([0.5, 0.25, 0.25])  # 2.83 effective domains
    assert entropy_alarm(weights, min_effective=2.9)
    assert not entropy_alarm(weights, min_effective=2.8)


def test_a_budget_spreads_what_is_left_of_a_domain_over_the_steps_that_are_left():
    # At weight 1 a step takes a hundredth of the first domain; the run takes all 0.5 times.
    budget = EpochBudget(4.0, np.array([0.01, 0.001, 0.01]), total_steps=600)
    np.testing.assert_allclose(budget.caps(np.zeros(3), 0), [4 / 6, 4 / 0.6, 4 / 6])
    np.testing.assert_allclose(budget.caps(np.array([3.0, 0.0, 5.0]), 500), [1.0, 40.0, 0.0])


def test_a_run_that_repeats_everything_has_a_larger_budget():
    budget = EpochBudget(4.0, np.array([0.02, 0.02]), total_steps=1000)  # 10 epochs of each
    np.testing.assert_allclose(budget.caps(np.zeros(2), 0), [0.75, 0.75])


@given(st.integers(1, 400), st.data())
def test_a_budget_always_leaves_enough_for_the_steps_to_come(step, data):
    epochs_per_step = data.draw(arrays(np.float64, 4, elements=st.floats(1e-3, 0.5)))
    masses = data.draw(arrays(np.float64, 4, elements=st.floats(0.1, 1.0)))
    budget = EpochBudget(2.0, epochs_per_step, total_steps=400)
    epochs = masses / masses.sum() * step * epochs_per_step
    assert budget.caps(epochs, step).sum() > 1.0


def repeats_at(discount, weights, epochs, step):
    left = discount.total_steps - step
    return np.maximum(epochs + weights * discount.epochs_per_step * left - 1.0, 0.0)


def test_without_repetition_nothing_is_discounted():
    discount = RepeatDiscount(1.0, np.array([0.01, 0.02, 9.0]), total_steps=100)
    weights = np.array([0.6, 0.4, 0.0])
    assert discount.apply(weights, np.array([0.4, 0.2, 0.0]), 0) is weights


def test_repeats_of_equal_domains_differ_by_the_decay_times_the_logarithm_of_their_worth():
    discount = RepeatDiscount(2.0, np.full(2, 0.2), total_steps=100)  # 10 epochs of each
    found = discount.apply(np.array([0.9, 0.1]), np.zeros(2), 0)
    first, second = repeats_at(discount, found, np.zeros(2), 0)
    np.testing.assert_allclose(first - second, 2.0 * (np.log(9.0) - np.log(found[0] / found[1])))
    np.testing.assert_allclose(found.sum(), 1.0)
    assert 0.5 < found[0] < 0.65  # capped at 1.5 times the epochs of all it would be 0.75


def test_what_repetitions_are_hardly_worth_is_spread_evenly_and_what_they_are_is_kept():
    weights, epochs = np.array([0.7, 0.2, 0.1]), np.zeros(3)
    per_step = np.full(3, 0.3)
    even = RepeatDiscount(1e-3, per_step, total_steps=100).apply(weights, epochs, 0)
    np.testing.assert_allclose(even, np.full(3, 1 / 3), atol=1e-3)
    kept = RepeatDiscount(1e6, per_step, total_steps=100).apply(weights, epochs, 0)
    np.testing.assert_allclose(kept, weights, atol=1e-4)


@given(st.integers(0, 400), st.floats(0.05, 20.0), st.data())
def test_a_discount_is_by_the_repetitions_at_the_weights_that_it_comes_to(step, decay, data):
    """Against the definition, for domains of all sizes, spent and not, at any time."""
    size = data.draw(st.integers(1, 6))

    def drawn(low, high):
        return data.draw(arrays(np.float64, size, elements=st.floats(low, high)))

    weights = np.exp(drawn(-20.0, 0.0))
    weights /= weights.sum()
    epochs = drawn(0.0, 30.0)
    discount = RepeatDiscount(decay, np.exp(drawn(-12.0, 0.0)), total_steps=400)
    found = discount.apply(weights, epochs, step)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-12)
    left = max(400 - step, 1)
    repeats = np.maximum(epochs + found * discount.epochs_per_step * left - 1.0, 0.0)
    if found is not weights:
        scale = np.log(found) + repeats / decay - np.log(weights)
        np.testing.assert_allclose(scale, scale[0], atol=1e-7)
        assert scale[0] >= -1e-9
