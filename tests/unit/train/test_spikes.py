import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadga.train.spikes import LossSpikes, SpikeRule, expected_loss
from tests.unit.train.fakes import batch

TOKENS = torch.zeros((1, 2, 6), dtype=torch.int64)
LEVEL = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9]
"""Their median is 2.0, the median absolute deviation 0.075."""


def detector(*losses: float, sigma: float = 6.0, window: int = 8) -> LossSpikes:
    found = LossSpikes(SpikeRule(sigma, window), ["a", "b"])
    for step, loss in enumerate(losses, start=1):
        observe(found, loss, step=step)
    return found


def observe(found: LossSpikes, *losses: float, step: int = 1) -> None:
    values = np.array(losses if len(losses) > 1 else losses * 2)
    rows = batch(TOKENS, domains=[0, 1], rows=[[0, 1]], step=step)
    found.observe(rows, values)
    assert found.after_step(step) == {}


def test_what_is_expected_is_the_median_and_a_robust_deviation():
    expected = expected_loss(np.array(LEVEL))
    assert expected.loss == 2.0
    assert expected.deviation == pytest.approx(1.4826 * 0.075)
    assert expected.sigmas(2.0 + 1.4826 * 0.75) == pytest.approx(10.0)
    assert expected.sigmas(1.0) < 0.0
    assert expected.sigmas(math.nan) == expected.sigmas(math.inf) == math.inf


@given(st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=9), st.integers(0, 4))
def test_outliers_do_not_move_it_while_they_are_less_than_half(values, number):
    usual = np.linspace(1.9, 2.1, 9)
    with_outliers = np.array([*usual[number:], *values[:number]])
    expected = expected_loss(with_outliers)
    assert 1.9 <= expected.loss <= 2.1
    assert expected.deviation <= 1.4826 * 0.2 + 1e-12


def test_losses_that_are_equal_leave_room_for_a_thousandth():
    expected = expected_loss(np.full(8, 3.0))
    assert expected.deviation == pytest.approx(3e-3)
    assert expected_loss(np.zeros(8)).sigmas(0.0) == 0.0


@pytest.mark.parametrize(("loss", "spike"), [(2.6, False), (2.7, True), (0.1, False)])
def test_only_a_loss_far_above_the_others_is_a_spike(loss, spike):
    found = detector(*LEVEL)
    assert found.is_spike(np.array([loss, loss])) == spike
    observe(found, loss, step=9)
    assert (found.latest(finite=True) is not None) == spike


def test_nothing_is_a_spike_before_the_window_is_full_but_what_is_no_number():
    found = detector(*LEVEL[:7])
    assert not found.is_spike(np.array([99.0, 99.0]))
    assert found.is_spike(np.array([2.0, math.nan]))


def test_the_start_of_training_has_no_spikes():
    rng = np.random.default_rng(0)
    steps = np.arange(2000)
    losses = 2.0 + 8.0 * np.exp(-steps / 60.0) + rng.normal(0.0, 0.05, steps.size)
    found = LossSpikes(SpikeRule(6.0, 100), ["a", "b"])
    for step, loss in enumerate(losses.tolist(), start=1):
        observe(found, loss, step=step)
        assert found.latest(finite=True) is None, step


def test_a_level_that_has_risen_for_good_is_no_spike_after_half_a_window():
    found = detector(*LEVEL)
    spikes = 0
    for step in range(9, 20):
        observe(found, 4.0 + 0.01 * step, step=step)
        spikes += found.latest(finite=True) is not None
        assert found.in_a_row in (0, spikes)
    assert spikes == 4  # with as many above as below, the deviation is as large
    assert found.in_a_row == 0


def test_the_event_has_the_worst_windows_first():
    found = detector(*LEVEL)
    observe(found, 5.0, 9.0, step=9)
    spike = found.latest(finite=True)
    assert spike is not None
    record: dict[str, Any] = {"sequences_by_domain": {"a": 1}, "loss_by_domain": {"a": 7.0}}

    event = spike.event(record, action="warn")["event"]

    assert event["loss"] == 7.0
    assert event["sigmas"] == pytest.approx(5.0 / (1.4826 * 0.075))
    assert event["windows"] == [["b", 0, 9.0], ["a", 0, 5.0]]
    assert spike.describe() == "a loss of 7, 45 deviations above the median 2"


def test_a_step_that_is_not_finite_otherwise_is_told_of_if_asked_for():
    found = detector(2.0)
    assert found.latest(finite=True) is None
    spike = found.latest(finite=False)
    assert spike is not None
    assert spike.expected is None
    observe(found, 1.0, math.nan, step=2)
    lost = found.latest(finite=False)
    assert lost is not None
    assert lost.windows[0] == ("b", 0, None)


@pytest.mark.parametrize("window", [8, 4])
def test_a_resumed_run_finds_the_same(window):
    found = detector(*LEVEL, 9.0)
    resumed = LossSpikes(SpikeRule(6.0, window), ["a", "b"])
    assert resumed.state_dict() == {}

    resumed.load_state_dict(found.state_dict())

    assert resumed.in_a_row == 1
    kept = [*LEVEL, 9.0][-window:]
    assert resumed.state_dict()["losses"].tolist() == kept
    assert resumed.latest(finite=True) is None
