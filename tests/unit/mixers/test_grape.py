import math

import numpy as np
import pytest

from megadga.mixers.base import TargetAlignments, TargetNeeds, average_weights
from megadga.mixers.dga import Dga
from megadga.mixers.grape import Grape, task_weights

LN2 = math.log(2)
HALF = np.array([0.5, 0.5])


def measured(dots, losses, *, target_norms=None, norms=None) -> TargetAlignments:
    dots = np.array(dots, np.float64)
    target_norms = np.ones(len(dots)) if target_norms is None else np.array(target_norms)
    norms = np.ones(dots.shape[1]) if norms is None else np.array(norms)
    return TargetAlignments(dots, np.array(losses, np.float64), target_norms**2, norms**2)


def test_two_updates_equal_the_values_worked_out_by_hand():
    # dots / losses: A = ln 2 * ((4, 0, 0), (0, 1, 3)), of losses (2, 4).
    # alpha = (1/4, 1/2, 1/4): improvements A alpha = ln 2 * (1, 1/2 + 3/4) = ln 2 * (1, 5/4).
    observed = measured([[8 * LN2, 0, 0], [0, 4 * LN2, 12 * LN2]], [2, 4])
    scheduler = Grape(
        np.array([1 / 4, 1 / 2, 1 / 4]), HALF, step_size=3.0, task_step_size=4.0, task_smoothing=0
    )
    state = scheduler.update(scheduler.init(), observed)
    # z = (1, 1) / 2 times exp(-4 A alpha) = (2^-4, 2^-5), as 2 to 1: (2/3, 1/3). The first target
    # improves less, so it counts more.
    np.testing.assert_allclose(task_weights(state), [2 / 3, 1 / 3], rtol=1e-12)
    # z A = ln 2 * (8/3, 1/3, 1); exp(3 z A) = (2^8, 2, 2^3) = (256, 2, 8).
    # alpha times that is (64, 1, 2), of sum 67.
    first = np.array([64, 1, 2]) / 67
    np.testing.assert_allclose(state.weights, first, rtol=1e-12)

    # The same again: A alpha = ln 2 * (256, 1 + 6) / 67 = ln 2 * (256, 7) / 67.
    # z as 2 * 2^(-1024/67) to 2^(-28/67), that is 1 to 2^(996/67 - 1).
    state = scheduler.update(state, observed)
    ratio = 2 ** (996 / 67 - 1)
    tasks = np.array([1, ratio]) / (1 + ratio)
    np.testing.assert_allclose(task_weights(state), tasks, rtol=1e-12)
    # exp(3 z A) = (2^(12 z_1), 2^(3 z_2), 2^(9 z_2)).
    masses = first * 2.0 ** np.array([12 * tasks[0], 3 * tasks[1], 9 * tasks[1]])
    second = masses / masses.sum()
    np.testing.assert_allclose(state.weights, second, rtol=1e-12)
    np.testing.assert_allclose(average_weights(state), (first + second) / 2, rtol=1e-12)


def test_clipped_gradients_have_norm_one_at_most():
    # |grad log l| = (6 / 2, 1 / 2) = (3, 1/2) and |g| = (4, 1/2): lengths (3, 1) times (4, 1).
    # A = dots / losses = ((12, 3/2), (1, 1/8)), clipped ((1, 1/2), (1/4, 1/8)).
    observed = measured([[24, 3], [2, 1 / 4]], [2, 2], target_norms=[6, 1], norms=[4, 0.5])
    scheduler = Grape(
        HALF, np.array([0, 1.0]), step_size=8 * LN2, task_step_size=0, task_smoothing=0,
        score="clipped",
    )  # fmt: skip
    # z = (0, 1): exp(8 ln 2 * (1/4, 1/8)) = (4, 2).
    state = scheduler.update(scheduler.init(), observed)
    np.testing.assert_allclose(state.weights, [2 / 3, 1 / 3], rtol=1e-12)


def test_smoothing_leaves_every_target_a_share():
    observed = measured([[1e6, 1e6], [0, 0]], [1, 1])
    scheduler = Grape(HALF, HALF, step_size=0.0, task_step_size=1.0, task_smoothing=0.1)
    state = scheduler.update(scheduler.init(), observed)
    np.testing.assert_allclose(task_weights(state), [0.05, 0.95], rtol=1e-12)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
def test_a_target_loss_without_a_logarithm_leaves_the_update_out(loss):
    scheduler = Grape(HALF, HALF, step_size=1.0, task_step_size=1.0)
    state = scheduler.update(scheduler.init(), measured([[1, 0], [0, 1]], [1, loss]))
    np.testing.assert_array_equal(state.weights, HALF)
    np.testing.assert_array_equal(task_weights(state), HALF)
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_it_observes_norms_only_to_clip():
    raw = Grape(HALF, HALF, step_size=1.0, task_step_size=1.0)
    clipped = Grape(HALF, HALF, step_size=1.0, task_step_size=1.0, score="clipped")
    assert (raw.observes, clipped.observes) == (TargetNeeds(2), TargetNeeds(2, norms=True))


def test_another_number_of_targets_is_refused():
    scheduler = Grape(HALF, HALF, step_size=1.0, task_step_size=1.0)
    with pytest.raises(ValueError, match=r"target losses: expected shape \(2,\), found \(1,\)"):
        scheduler.update(scheduler.init(), measured([[1, 0]], [1]))


def test_only_its_own_state_has_task_weights():
    with pytest.raises(ValueError, match="memory: expected task_weights, found none"):
        task_weights(Dga(HALF, step_size=1.0).init())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial: expected a sum of 1"),
        ({"task_weights": np.array([0.5])}, "task_weights: expected a sum of 1"),
        ({"step_size": -1.0}, "^step_size: expected a finite number >= 0, found -1.0"),
        ({"task_step_size": math.nan}, "task_step_size: expected a finite number >= 0, found nan"),
        ({"task_smoothing": 2.0}, "task_smoothing: expected 0 <= task_smoothing <= 1, found 2.0"),
        ({"score": "cosine"}, "score: expected raw or clipped, found 'cosine'"),
    ],
)
def test_wrong_values_are_refused(change, message):
    right = {"initial": HALF, "task_weights": HALF, "step_size": 1.0, "task_step_size": 1.0}
    with pytest.raises(ValueError, match=message):
        Grape(**right | change)


def test_shapes_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"target dots: expected shape \(M, K\), found \(2,\)"):
        TargetAlignments(np.ones(2), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"target losses and norms: expected shape \(1,\)"):
        TargetAlignments(np.ones((1, 2)), np.ones(2), np.ones(1))
    with pytest.raises(ValueError, match=r"squared_norms: expected \(2,\), found \(3,\)"):
        TargetAlignments(np.ones((1, 2)), np.ones(1), np.ones(1), np.ones(3))
    with pytest.raises(ValueError, match=r"standard_errors: expected \(1, 2\), found \(2,\)"):
        TargetAlignments(np.ones((1, 2)), np.ones(1), np.ones(1), standard_errors=np.ones(2))
