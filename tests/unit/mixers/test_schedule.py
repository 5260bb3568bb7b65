import numpy as np
import pytest

from megadga.mixers.base import StepNeeds, StepNumber
from megadga.mixers.schedule import Schedule, replay, schedule_of_columns

STEPS = np.array([0, 10, 30])
WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])


def at(schedule: Schedule, step: int) -> list[float]:
    return schedule.update(schedule.init(), StepNumber(step)).averaged_weights.tolist()


def test_stages_hold_until_the_next_begins():
    schedule = Schedule(STEPS, WEIGHTS)
    found = [at(schedule, step) for step in (0, 9, 10, 29, 30, 1000)]
    assert found == [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.25, 0.75]]


def test_weights_move_in_a_line_between_stages():
    schedule = Schedule(STEPS, WEIGHTS, between="linear")
    # Halfway to the second stage; a quarter of the way to the third: 0.5 - 0.25/4.
    found = [at(schedule, step) for step in (0, 5, 10, 15, 30, 1000)]
    assert found == [
        [1, 0],
        [0.75, 0.25],
        [0.5, 0.5],
        [0.4375, 0.5625],
        [0.25, 0.75],
        [0.25, 0.75],
    ]


def test_it_begins_with_the_first_stage_and_counts_updates():
    schedule = Schedule(STEPS, WEIGHTS)
    state = schedule.init()
    np.testing.assert_array_equal(state.weights, [1, 0])
    assert schedule.update(state, StepNumber(10)).num_updates == 1
    assert schedule.observes == StepNeeds()


def test_an_update_does_not_depend_on_those_before():
    schedule = Schedule(STEPS, WEIGHTS, between="linear")
    state = schedule.update(schedule.init(), StepNumber(3))
    found = schedule.update(state, StepNumber(15)).weights
    np.testing.assert_array_equal(found, at(schedule, 15))


def test_a_table_is_normalised_line_by_line():
    columns = {"b": np.array([1.0, 0.0]), "a": np.array([3.0, 2.0])}
    schedule = schedule_of_columns(np.array([0, 5]), columns, ["a", "b"])
    np.testing.assert_array_equal(schedule.weights, [[0.75, 0.25], [1.0, 0.0]])


def test_a_table_must_have_exactly_the_domains():
    message = "columns: expected exactly the 2 domains, found c unknown and b missing"
    with pytest.raises(ValueError, match=message):
        schedule_of_columns(np.array([0]), {"a": np.ones(1), "c": np.ones(1)}, ["a", "b"])


@pytest.mark.parametrize("line", [[0.0, 0.0], [2.0, -1.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_line_that_is_no_mixture_is_refused(line):
    columns = {"a": np.array([1.0, line[0]]), "b": np.array([1.0, line[1]])}
    with pytest.raises(ValueError, match="line 1: expected finite masses >= 0 and one > 0"):
        schedule_of_columns(np.array([0, 1]), columns, ["a", "b"])


def test_a_replay_has_the_weights_of_the_other_run_at_each_step():
    logged = np.array([[0.4, 0.6], [0.3, 0.7]])
    schedule = replay(np.array([0.5, 0.5]), np.array([20, 40]), logged)
    found = [at(schedule, step) for step in (19, 20, 39, 40, 41)]
    assert found == [[0.5, 0.5], [0.4, 0.6], [0.4, 0.6], [0.3, 0.7], [0.3, 0.7]]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((np.array([0, 1]), np.ones((1, 2))), r"stages: expected steps of shape \(N,\)"),
        ((np.array([], int), np.ones((0, 2))), "stages: expected the first at step 0, found none"),
        ((np.array([5]), np.array([[1.0]])), "stages: expected the first at step 0, found 5"),
        ((np.array([0, 7, 7]), WEIGHTS), "stages: expected ascending steps, found 7 after 7"),
        ((np.array([0, 7]), np.ones((2, 2))), "stage at step 0: expected a sum of 1, found 2.0"),
        ((STEPS, WEIGHTS, "cubic"), "between: expected constant or linear, found 'cubic'"),
    ],
)
def test_wrong_stages_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        Schedule(*stages)
