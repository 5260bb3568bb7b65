import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.mixers.updates import UpdateSteps, affordable_updates

small = st.integers(1, 40)


@given(small, small, st.integers(0, 60), st.integers(0, 200))
def test_updates_are_counted_as_they_come(interval, early_interval, early_steps, steps):
    updates = UpdateSteps(interval, early_interval, early_steps)
    assert updates.count(steps) == sum(updates.is_update(s) for s in range(1, steps + 1))


def test_one_interval_is_every_multiple_of_it():
    updates = UpdateSteps(3)
    assert [s for s in range(1, 10) if updates.is_update(s)] == [3, 6, 9]


def test_the_interval_changes_after_the_early_steps():
    updates = UpdateSteps(5, early_interval=2, early_steps=4)
    assert [updates.interval_at(step) for step in (2, 4, 9)] == [2, 2, 5]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0,), "interval: expected at least 1 step, found 0"),
        ((2, 0), "early_interval: expected at least 1 step, found 0"),
        ((2, 1, -1), "early_steps: expected at least 0 step, found -1"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        UpdateSteps(*numbers)


@given(
    st.floats(1e-4, 100.0),
    st.floats(1e-3, 1.0),
    st.integers(1, 100_000),
)
def test_updates_cost_at_most_their_share_and_three_times_it_at_first(cost, overhead, steps):
    updates = affordable_updates(cost, overhead=overhead, total_steps=steps)
    early = updates.early_steps
    margin = 1.0 + 1e-9
    assert early <= 0.1 * steps
    assert cost * updates.count(early) <= 3.0 * overhead * early * margin
    later = updates.count(steps) - updates.count(early)
    assert cost * later <= overhead * (steps - early) * margin
    # One step less between them would cost too much.
    assert updates.interval == 1 or cost / (updates.interval - 1) > overhead / margin
