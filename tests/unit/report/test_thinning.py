import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megadga.report.runs import Series
from megadga.report.thinning import (
    at_steps,
    extreme_steps,
    moving_mean,
    spaced_steps,
    thin_curves,
    thin_tables,
)


def curve(values, first=1):
    steps = np.arange(first, first + len(values))
    return Series(("loss",), steps, np.array(values, dtype=np.float64).reshape(-1, 1))


def test_a_moving_mean_has_fewer_values_at_both_ends():
    means = moving_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3)
    assert means.tolist() == [1.5, 3.0, 4.0, 5.0]


def test_a_moving_mean_leaves_out_what_is_not_a_number():
    means = moving_mean(np.array([1.0, np.nan, 3.0, np.nan, np.nan]), 3)
    np.testing.assert_array_equal(means, [1.0, 2.0, 3.0, 3.0, np.nan])


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300),
    st.integers(4, 40),
)
def test_the_first_the_last_and_the_extremes_are_kept(values, most):
    series = curve(values)
    steps = extreme_steps(series, most)
    kept = at_steps(series, steps)
    assert steps[0] == 1
    assert steps[-1] == len(values)
    assert len(steps) <= max(most + 2, 6)
    np.testing.assert_array_equal(kept.values[:, 0], np.array(values)[steps - 1])
    if np.isfinite(values).any():
        assert np.nanmax(kept.values) == np.nanmax(values)
        assert np.nanmin(kept.values) == np.nanmin(values)


def test_a_short_curve_is_kept_whole():
    assert extreme_steps(curve([3.0, 1.0, 2.0]), 4).tolist() == [1, 2, 3]


def test_steps_of_tables_are_even_from_the_first_to_the_last():
    assert spaced_steps(np.arange(0, 101, 10), 3).tolist() == [0, 50, 100]


def test_runs_that_are_averaged_keep_the_same_steps():
    rng = np.random.default_rng(0)
    first, second = thin_curves([curve(rng.random(1000)) for _ in range(2)], 40)
    assert first.steps.tolist() == second.steps.tolist()
    assert len(first.steps) < 80


def test_a_run_that_is_behind_keeps_its_last_step():
    done, going = thin_tables([curve(range(100)), curve(range(38))], 5)
    assert done.steps.tolist() == [1, 26, 51, 75, 100]
    assert going.steps.tolist() == [1, 26, 38]
