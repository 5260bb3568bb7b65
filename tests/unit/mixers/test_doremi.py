import math

import numpy as np
import pytest

from megadga.mixers.base import DomainLosses, LossNeeds, average_weights
from megadga.mixers.doremi import Doremi

LN2 = math.log(2)


def losses(values, reference, *, counts=None) -> DomainLosses:
    counts = np.ones(len(values), np.int64) if counts is None else np.array(counts)
    return DomainLosses(np.array(values, np.float64), counts, 1, np.array(reference, np.float64))


def test_two_updates_equal_the_values_worked_out_by_hand():
    # c = 1/10, alpha = (1/2, 1/4, 1/4). The excess over the reference is (-1, ln 2, 2 ln 2),
    # clipped (0, ln 2, 2 ln 2): alpha times (1, 2, 4) is (1/2, 1/2, 1), shares (1/4, 1/4, 1/2).
    # 9/10 of that and 1/30: (9/40 + 1/30, 9/40 + 1/30, 9/20 + 1/30) = (31, 31, 58) / 120.
    scheduler = Doremi(np.array([1 / 2, 1 / 4, 1 / 4]), step_size=1.0, smoothing=0.1)
    state = scheduler.update(scheduler.init(), losses([2, 3 + LN2, 1 + 2 * LN2], [3, 3, 1]))
    first = np.array([31, 31, 58]) / 120
    np.testing.assert_allclose(state.weights, first, rtol=1e-12)
    np.testing.assert_allclose(average_weights(state), first, rtol=1e-12)

    # The third is not drawn and keeps 2 ln 2; the others are at (ln 2, 0). alpha times (2, 1, 4)
    # is (62, 31, 232) / 120, of sum 325: 9/10 * (62, 31, 232) / 325 + 1/30.
    state = scheduler.update(state, losses([1 + LN2, 1, 0], [1, 1, 9], counts=[4, 4, 0]))
    second = 0.9 * np.array([62, 31, 232]) / 325 + 1 / 30
    np.testing.assert_allclose(state.weights, second, rtol=1e-12)
    np.testing.assert_array_equal(state.weights, state.averaged_weights)
    np.testing.assert_allclose(average_weights(state), (first + second) / 2, rtol=1e-12)


def test_a_domain_that_was_never_drawn_counts_as_the_one_furthest_behind():
    scheduler = Doremi(np.full(3, 1 / 3), smoothing=0.0)
    state = scheduler.update(
        scheduler.init(), losses([LN2, 0, 2 * LN2], [0, 0, 0], counts=[1, 0, 1])
    )
    np.testing.assert_allclose(state.weights, [2 / 10, 4 / 10, 4 / 10], rtol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        losses([math.inf, 1], [1, 1]),
        losses([1, 1], [1, math.nan]),
        losses([1, 1], [1, 1], counts=[0, 0]),
    ],
)
def test_a_useless_observation_is_counted_and_left_out(bad):
    scheduler = Doremi(np.array([0.3, 0.7]))
    state = scheduler.update(scheduler.init(), bad)
    np.testing.assert_array_equal(state.weights, [0.3, 0.7])
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_it_observes_the_losses_of_a_reference_too():
    assert Doremi(np.array([1.0])).observes == LossNeeds(reference=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial: expected a sum of 1"),
        ({"step_size": math.inf}, "step_size: expected a finite number >= 0, found inf"),
        ({"smoothing": 1.1}, "smoothing: expected 0 <= smoothing <= 1, found 1.1"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Doremi(**{"initial": np.array([0.5, 0.5])} | change)
