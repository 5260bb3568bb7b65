import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megadga.config.sections import LossSpikeSection
from megadga.errors import LossSpikeError
from megadga.train.responses import SpikeResponse
from megadga.train.spikes import LossSpikes, Spike, SpikeRule
from tests.unit.train.fakes import batch

TOKENS = torch.zeros((1, 2, 6), dtype=torch.int64)
RECORD: dict[str, Any] = {"loss": 9.0, "sequences_by_domain": {"a": 2}, "loss_by_domain": {}}
LATEST = Path("out/checkpoints/step-00000004")


class FakeReturns:
    """Returns that are only counted."""

    def __init__(self, *left_out: int) -> None:
        self.left_out = left_out
        self.asked: list[tuple[int, int, int]] = []

    def leaves_out(self, step: int) -> bool:
        return step in self.left_out

    def __call__(self, spike: Spike, *, batches: int, limit: int) -> None:
        self.asked.append((spike.step, batches, limit))


class Case:
    """A run's response after eight ordinary steps."""

    def __init__(self, on_spike: str | None, *left_out: int, limit: int = 2) -> None:
        self.returns = FakeReturns(*left_out)
        self.logged: list[dict[str, Any]] = []
        section = None
        self.spikes = LossSpikes(SpikeRule(6.0, 8), ["a"])
        if on_spike is not None:
            values = {"on_spike": on_spike, "window": 8, "limit": limit}
            section = LossSpikeSection.model_validate(values)
        self.response = SpikeResponse(
            section,
            self.spikes if section is not None else None,
            returns=self.returns,
            newest=lambda: LATEST,
            log=lambda step, metrics: self.logged.append(metrics["event"]),
        )
        for step in range(1, 9):
            assert self.train(step, 2.0 + step % 2 / 10.0) == (True, False)

    def train(self, step: int, loss: float, *, finite: bool = True) -> tuple[bool, bool]:
        """Complete a step; return whether it was applied, and whether the run has gone back."""
        rows, losses = batch(TOKENS, domains=[0, 0], rows=[[0, 1]], step=step), np.full(2, loss)
        applied = self.response.accepts(rows, losses)
        self.spikes.observe(rows, losses)
        return applied, self.response.after_step(step, RECORD, finite=finite)


@pytest.mark.parametrize(
    ("on_spike", "outcome", "action"),
    [
        ("warn", (True, False), ["warn"]),
        ("skip", (False, False), ["skip"]),
        ("rewind", (True, True), ["rewind"]),
        (None, (True, False), []),
    ],
)
def test_a_spike_is_logged_and_answered(on_spike, outcome, action):
    case = Case(on_spike)
    assert case.train(9, 9.0) == outcome
    assert [event["action"] for event in case.logged] == action
    assert case.returns.asked == ([(9, 1, 2)] if on_spike == "rewind" else [])


def test_a_run_stops_at_a_spike_and_says_how_to_go_on():
    case = Case("stop")
    with pytest.raises(LossSpikeError) as told:
        case.train(9, 9.0)
    assert str(told.value).startswith("step 9: a loss of 9, ")
    assert str(told.value).endswith(
        f"no checkpoint was written since, the newest one is {LATEST}; "
        "--set watch.loss_spike.on_spike=skip goes on without the batch"
    )


def test_batches_in_a_row_are_skipped_up_to_the_limit():
    case = Case("skip", limit=2)
    for step in (9, 10):
        assert case.train(step, 9.0) == (False, False)
    with pytest.raises(LossSpikeError, match=r"at most 2 in a row \(watch.loss_spike.limit\)"):
        case.train(11, 9.0)
    again = Case("skip", limit=1)
    for step, loss in ((9, 9.0), (10, 2.0), (11, 9.0)):
        again.train(step, loss)


@pytest.mark.parametrize("on_spike", ["warn", "skip"])
def test_gradients_that_are_not_finite_are_left_to_those_who_count_them(on_spike):
    case = Case(on_spike)
    assert case.train(9, 2.0, finite=False) == (True, False)
    assert case.logged == []


def test_gradients_that_are_not_finite_make_a_run_go_back():
    case = Case("rewind")
    assert case.train(9, 2.0, finite=False) == (True, True)
    assert case.returns.asked == [(9, 1, 2)]


def test_a_loss_that_is_no_number_is_skipped():
    case = Case("skip")
    assert case.train(9, math.nan) == (False, False)
    assert [event["action"] for event in case.logged] == ["skip"]


@pytest.mark.parametrize("on_spike", ["warn", "skip", "stop", "rewind", None])
def test_a_batch_that_is_left_out_is_not_judged_again(on_spike):
    case = Case(on_spike, 9)
    assert case.train(9, 9.0) == (False, False)
    assert case.logged == [{"event": "batch_left_out", "loss": 9.0}]
    assert not case.response.applied
    assert case.train(10, 2.0) == (True, False)
