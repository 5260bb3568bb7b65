"""Statistics that advice rests on, against numbers worked out by hand and known distributions."""

import math
from typing import Any

import numpy as np
import pytest

from megadga.mixers.safeguards import signal_to_noise
from megadga.report.statistics import (
    Overhead,
    crossing,
    last,
    noise,
    overhead,
    pace,
    persistent_signal,
    signal,
    swing,
)
from tests.support.histories import alignments_of, series, weights_of

near: Any = pytest.approx
"""Stands for a number in values that are compared."""


def test_a_straight_line_has_no_noise():
    assert noise(np.outer(np.arange(6.0), [1.0, -3.0])).tolist() == [0.0, 0.0]


def test_noise_is_the_deviation_of_errors_however_a_curve_begins():
    rng = np.random.default_rng(3)
    steps = np.arange(2000.0)[:, np.newaxis]
    curve = 8.0 * np.exp(-steps / 3.0)
    found = noise(curve + rng.normal(scale=[0.1, 2.0], size=(2000, 2)))
    # The median of 1998 dependent magnitudes: three of its standard deviations, about 3 %.
    np.testing.assert_allclose(found, [0.1, 2.0], rtol=0.1)


def test_of_one_update_the_signal_is_that_of_min_signal():
    rows = np.array([[0.0, 1.0, 4.0]] * 8)
    found = signal(alignments_of(rows, [0.5, 1.0, 0.7]), span=1)
    assert found is not None
    expected = signal_to_noise(rows[0], np.array([0.5, 1.0, 0.7]))
    assert found.ratio == near(expected, rel=1e-12)
    assert (found.error, found.num_blocks, found.num_updates) == (0.0, 2, 8)


def test_a_signal_without_differences_is_zero_in_the_mean():
    rng = np.random.default_rng(5)
    found = signal(alignments_of(rng.normal(size=(4000, 6)), 1.0), span=1)
    assert found is not None
    assert abs(found.square) < 4.0 * found.error


def test_averages_over_updates_have_more_signal_by_their_number():
    rng = np.random.default_rng(7)
    true = np.array([-1.0, 0.0, 1.0])  # variance 1
    history = alignments_of(true + rng.normal(scale=2.0, size=(6400, 3)), 2.0)
    single, averaged = signal(history, span=1), signal(history, span=16)
    assert single is not None
    assert averaged is not None
    assert abs(single.square - 1.0 / 4.0) < 4.0 * single.error
    assert abs(averaged.square - 16.0 / 4.0) < 4.0 * averaged.error


def test_a_signal_needs_standard_errors_and_domains_to_compare():
    rows = np.ones((64, 2)) * [1.0, 2.0]
    assert signal(alignments_of(rows, np.nan), span=1) is None
    assert signal(alignments_of(rows, 0.0), span=1) is None
    assert signal(alignments_of(rows[:, :1], 1.0), span=1) is None
    assert signal(alignments_of(rows[:7], 1.0), span=1) is None


def test_what_all_domains_share_is_no_persistent_signal():
    rng = np.random.default_rng(11)
    common = rng.normal(size=(100, 1))
    own = rng.normal(scale=0.1, size=(100, 4))
    assert persistent_signal(alignments_of(5.0 + common + own, np.nan)) < 1.5
    apart = own + np.array([0.0, 0.0, 0.0, 1.0])
    # Half of the domains' distance over a tenth of 0.1, and noise in both.
    assert persistent_signal(alignments_of(common + apart, np.nan)) > 25.0
    assert persistent_signal(alignments_of(np.ones((3, 1)), np.nan)) == 0.0


def test_weights_that_go_one_way_turn_once_and_swinging_ones_each_time():
    straight = swing(weights_of([0.5, 0.5], [0.6, 0.4], [0.9, 0.1]).weights)
    assert straight is not None
    assert straight.turns == near(1.0)
    assert straight.change == near(0.2)
    back = swing(weights_of(*[[0.9, 0.1], [0.1, 0.9]] * 4).weights)
    assert back is not None
    assert (back.number, back.reach) == (7, near(0.8))
    assert back.turns == near(7.0)


def test_weights_that_stay_do_not_swing():
    assert swing(weights_of([0.5, 0.5], [0.5, 0.5]).weights) is None
    assert swing(weights_of([0.5, 0.5]).weights) is None


def test_an_overhead_is_of_all_the_time_of_training():
    # 1 s in 10 s of training, then 3 s in 15 s: 4 s in 25 s.
    found = overhead(np.array([0.1, 0.1]), np.array([0.1, 0.2]), np.array([1.0, 3.0]))
    assert found == Overhead(0.1, near(4.0 / 25.0), near(0.05), 2)


def test_an_overhead_leaves_out_what_is_not_known_and_may_be_nothing():
    nan = math.nan
    assert overhead(np.array([0.1, nan]), np.array([0.1, 0.2]), np.array([1.0, 1.0])) is None
    free = overhead(np.full(3, 0.25), np.zeros(3), np.zeros(3))
    assert free == Overhead(0.25, 0.0, 0.0, 3)


def test_a_pace_is_growth_in_a_step():
    assert pace(series({"a": [1.0, 1.5, 3.0]})).tolist() == [0.1]
    assert last(series({"a": [1.0, 1.5, 3.0]}), 2).steps.tolist() == [20, 30]


@pytest.mark.parametrize(
    ("value", "step"), [(0.5, 5), (1.0, 10), (1.5, 25), (1.51, 26), (2.0, 30)]
)
def test_a_value_is_reached_between_rows(value, step):
    assert crossing(series({"a": [1.0, 1.0, 2.0]}), "a", value) == step
