import math

import numpy as np
import pytest

from megadga.mixers.base import AlignmentNeeds, Alignments, average_weights
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge

LN2 = math.log(2)


def of_gradients(gradients, direction) -> Alignments:
    gradients, direction = np.array(gradients, np.float64), np.array(direction, np.float64)
    norms = (gradients**2).sum(axis=1)
    return Alignments(gradients @ direction, float(direction @ direction), norms)


def test_two_updates_equal_the_values_worked_out_by_hand():
    # g = (3, 0), (4, 0), (0, 5): norms 3, 4, 5, of mean 4. Their sum is (7, 5), so
    # W = (21, 28, 25) and W / 4 = (5.25, 7, 6.25); clipped at 6: (5.25, 6, 6).
    gradients = [[3, 0], [4, 0], [0, 5]]
    scheduler = Doge(np.array([1 / 2, 1 / 4, 1 / 4]), step_size=4 * LN2 / 3, max_score=6.0)
    observed = of_gradients(gradients, np.mean(gradients, axis=0))
    np.testing.assert_allclose(scheduler.scores(observed), [5.25, 6, 6], rtol=1e-14)

    # exp(step_size W) relative to the first: exp(0.75 * 4 ln 2 / 3) = 2.
    # alpha times (1, 2, 2) is (1/2, 1/2, 1/2): alpha becomes uniform.
    state = scheduler.update(scheduler.init(), observed)
    np.testing.assert_allclose(state.weights, [1 / 3] * 3, rtol=1e-12)
    np.testing.assert_array_equal(state.weights, state.averaged_weights)
    np.testing.assert_allclose(average_weights(state), [1 / 3] * 3, rtol=1e-12)

    # Again: (1, 2, 2) / 5. The mean of both is (1/3 + 1/5) / 2 and (1/3 + 2/5) / 2.
    state = scheduler.update(state, observed)
    np.testing.assert_allclose(state.weights, [1 / 5, 2 / 5, 2 / 5], rtol=1e-12)
    np.testing.assert_allclose(average_weights(state), [4 / 15, 11 / 30, 11 / 30], rtol=1e-12)


def test_with_a_specific_target_the_dots_are_the_generalization():
    # <g_i, v> = (3, -4, 10), mean norm 4: (0.75, -1, 2.5), and below 0 is 0.
    observed = of_gradients([[3, 0], [-4, 0], [0, 5]], [1, 2])
    scheduler = Doge(np.full(3, 1 / 3), step_size=1.0, target="specific")
    np.testing.assert_allclose(scheduler.scores(observed), [0.75, 0, 2.5], rtol=1e-14)


def test_without_gradients_nothing_moves():
    scheduler = Doge(np.array([0.3, 0.7]), step_size=1.0)
    state = scheduler.update(scheduler.init(), of_gradients([[0], [0]], [0]))
    np.testing.assert_allclose(state.weights, [0.3, 0.7], rtol=1e-15)


def test_before_the_first_update_the_average_is_the_initial_mixture():
    scheduler = Doge(np.array([0.3, 0.7]), step_size=1.0)
    np.testing.assert_array_equal(average_weights(scheduler.init()), [0.3, 0.7])


def test_a_rule_that_keeps_no_average_has_none():
    state = Dga(np.array([0.3, 0.7]), step_size=1.0).init()
    with pytest.raises(ValueError, match="memory: expected average_weights, found nothing"):
        average_weights(state)


def test_a_measurement_that_is_not_finite_is_counted_and_left_out():
    scheduler = Doge(np.array([0.3, 0.7]), step_size=1.0)
    state = scheduler.update(scheduler.init(), of_gradients([[math.nan], [1]], [1]))
    np.testing.assert_array_equal(state.weights, [0.3, 0.7])
    assert (state.num_updates, state.num_skipped) == (0, 1)


@pytest.mark.parametrize("target", ["domains", "specific"])
def test_it_observes_alignments_with_its_target_and_norms(target):
    scheduler = Doge(np.array([1.0]), step_size=1.0, target=target)
    assert scheduler.observes == AlignmentNeeds(norms=True, target=target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial: expected a sum of 1"),
        ({"step_size": -1.0}, "step_size: expected a finite number >= 0, found -1.0"),
        ({"target": "all"}, "target: expected domains or specific, found 'all'"),
        ({"max_score": 0.0}, "max_score: expected a number > 0, found 0.0"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Doge(**{"initial": np.array([0.5, 0.5]), "step_size": 1.0} | change)
