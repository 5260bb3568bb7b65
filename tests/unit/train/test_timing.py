"""Where a step's time goes."""

from typing import ClassVar

import pytest
import torch

from megadga.train.flops import flops_per_token
from megadga.train.timing import StepTimer, StepTimes


def clock(*moments):
    remaining = iter(moments)
    return lambda: next(remaining)


def test_a_step_is_its_passes_and_the_optimizer():
    timer = StepTimer(torch.device("cpu"), clock=clock(10.0, 12.5, 13.0))
    timer.begin()
    timer.begin_optimizer()
    timer.end_optimizer()

    assert timer.seconds() == {"forward_backward": 2.5, "optimizer": 0.5}


def test_what_is_measured_while_a_batch_is_requested_counts_as_probing():
    times = StepTimes(clock=clock(0.0, 3.0, 10.0, 14.0, 15.0))
    times.begin(100.0)
    times.lap("data", 102.0)  # of 3 seconds 2 for the direction of an in-flight probe
    times.lap("training", 102.0)
    times.lap("mixture", 105.5)
    times.lap("evaluation", 105.5)

    record = times.record(
        {"tokens_per_s": 8.0, "seconds": {"forward_backward": 5.0, "optimizer": 1.0}}
    )

    assert record == {
        "seconds": {
            "data": 1.0,
            "forward_backward": 5.0,
            "optimizer": 1.0,
            "probe": 5.5,
            "evaluation": 1.0,
        }
    }


def test_what_a_step_does_not_have_is_not_there_and_the_next_step_begins_anew():
    times = StepTimes(clock=clock(0.0, 3.0, 5.0, 6.0), utilization=0.125)
    none = {"forward_backward": 0.0, "optimizer": 0.0}
    own = {"tokens_per_s": 2.0, "seconds": none}
    for _ in range(2):
        times.begin(0.0)
        times.lap("data", 0.0)

    record = times.record(own)

    assert record == {"seconds": {"data": 1.0, **none}, "mfu": 0.25}


def test_the_operations_of_a_token_are_those_of_palm_540b():
    # Appendix B: 118 layers, 48 heads of 256, sequences of 2048, 540.35e9 parameters.
    flops = flops_per_token(
        540_350_000_000, num_layers=118, attention_width=48 * 256, sequence_length=2048
    )
    assert flops == 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert flops / (6 * 540.35e9) == pytest.approx(1.011, abs=1e-3)


class StreamEvent:
    """An event of a stream whose work is done, or not yet, at a second of its own."""

    seconds: ClassVar[list[float]] = []
    reached = True

    def __init__(self, **_):
        self.second = 0.0

    def record(self):
        self.second = self.seconds.pop(0)

    def query(self):
        return self.reached

    def elapsed_time(self, end):
        return 1000.0 * (end.second - self.second)


@pytest.mark.parametrize(
    ("reached", "passes", "optimizer"), [(True, 7.0, 1.0), (False, 0.25, 0.5)]
)
def test_an_accelerator_notes_times_itself_and_nothing_waits_for_it(
    monkeypatch, reached, passes, optimizer
):
    """It works behind the process, which has queued the passes in 0.25 s."""
    monkeypatch.setattr(torch, "Event", StreamEvent)
    monkeypatch.setattr(StreamEvent, "seconds", [20.0, 27.0, 28.0])
    monkeypatch.setattr(StreamEvent, "reached", reached)
    timer = StepTimer(torch.device("cuda"), clock=clock(10.0, 10.25, 10.75))
    timer.begin()
    timer.begin_optimizer()
    timer.end_optimizer()

    assert timer.seconds() == {"forward_backward": passes, "optimizer": optimizer}
