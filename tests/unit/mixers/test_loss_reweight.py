import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.loss_reweight import LossReweighting, relative_losses

LOSSES = np.array([1.0, 2.0, 3.0, 5.0])
# From 1 to 5, middle 3: relative losses (-1, -1/2, 0, 1).


def batches(elements):
    return arrays(np.float64, st.integers(1, 12), elements=elements)


@pytest.mark.parametrize(
    ("strategy", "values"),
    [
        ("linupper", [0, 1 / 2, 1, 1]),  # min(h + 1, 1)
        ("quadratic", [0, 3 / 4, 1, 0]),  # 1 - h^2
        ("extremes", [1, 1 / 2, 0, 1]),  # |h|
        ("upper", [0, 1 / 4, 1 / 2, 1]),  # (h + 1) / 2
    ],
)
def test_weights_are_a_softmax_of_the_strategy_times_the_batch(strategy, values):
    found = LossReweighting(strategy, temperature=0.5).weights(LOSSES, step=0)
    masses = np.exp(2 * np.array(values))
    np.testing.assert_allclose(found, 4 * masses / masses.sum(), rtol=1e-14)


def test_losses_are_placed_between_the_least_and_the_largest():
    np.testing.assert_allclose(relative_losses(LOSSES), [-1, -0.5, 0, 1], rtol=1e-15)


def test_until_warmed_up_all_weights_are_one():
    reweighting = LossReweighting(warmup=10)
    np.testing.assert_array_equal(reweighting.weights(LOSSES, step=9), np.ones(4))
    assert (reweighting.weights(LOSSES, step=10) != 1.0).all()


def test_a_temperature_holds_from_its_step_on():
    falling = LossReweighting(temperature={10: 0.5, 0: 2.0})
    for step, temperature in ((0, 2.0), (9, 2.0), (10, 0.5), (10_000, 0.5)):
        same = LossReweighting(temperature=temperature).weights(LOSSES, step=step)
        np.testing.assert_array_equal(falling.weights(LOSSES, step=step), same)


@pytest.mark.parametrize("strategy", ["linupper", "quadratic", "extremes", "upper"])
@given(losses=batches(st.floats(allow_nan=False, allow_infinity=False)), r=st.floats(0.1, 10.0))
def test_weights_have_mean_one_and_differ_by_a_bounded_factor(strategy, losses, r):
    found = LossReweighting(strategy, temperature=r).weights(losses, step=0)
    assert found.mean() == pytest.approx(1.0, rel=1e-12)
    assert found.max() <= found.min() * math.exp(1 / r) * (1 + 1e-12)


@given(losses=batches(st.floats(0.0, 20.0)))
def test_easy_sequences_never_count_more_than_hard_ones(losses):
    found = LossReweighting("linupper").weights(losses, step=0)
    assert (np.diff(found[np.argsort(losses)]) >= -1e-12).all()


def test_equal_losses_have_equal_weights():
    found = LossReweighting("extremes").weights(np.full(5, 3.7), step=0)
    np.testing.assert_array_equal(found, np.ones(5))


@given(losses=batches(st.floats(0.0, 20.0)), data=st.data())
def test_the_order_of_the_batch_does_not_matter(losses, data):
    order = np.array(data.draw(st.permutations(range(losses.size))))
    reweighting = LossReweighting()
    found = reweighting.weights(losses[order], step=0)
    # The mean is over the sequences in another order; nothing else may differ.
    np.testing.assert_allclose(found, reweighting.weights(losses, step=0)[order], rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "mid"}, "strategy: expected one of linupper, quadratic, extremes, upper"),
        ({"temperature": 0.0}, "temperature: expected a number > 0, found 0.0"),
        ({"temperature": {0: 1.0, 5: -1.0}}, "temperature: expected a number > 0, found -1.0"),
        ({"temperature": {5: 1.0}}, r"temperature: expected steps from 0 on, found \[5\]"),
        ({"temperature": {}}, r"temperature: expected steps from 0 on, found \[\]"),
        ({"warmup": -1}, "warmup: expected at least 0 steps, found -1"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LossReweighting(**change)


def test_losses_must_be_numbers():
    with pytest.raises(ValueError, match="losses: expected finite, found nan at index 1"):
        LossReweighting().weights(np.array([1.0, math.nan]), step=0)
    with pytest.raises(
        ValueError, match=r"losses: expected shape \(B,\) with B >= 1, found \(0,\)"
    ):
        LossReweighting().weights(np.array([]), step=0)
