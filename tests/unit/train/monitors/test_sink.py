"""Monitors that fail do not disturb: a fake one that fails when it is told to."""

from megadga.train.monitors.sink import Monitors
from megadga.train.monitors.values import RecordValues


class Fake:
    name = "fake"

    def __init__(self, broken=()):
        self.broken = broken
        self.tried = []
        self.told = []

    def write(self, step, values):
        self.tried.append(step)
        if step in self.broken:
            raise ConnectionError("no route\nto host")
        self.told.append((step, values))

    def go_back(self, step):
        self.told.append(f"back to {step}")

    def flush(self):
        self.told.append("flushed")

    def close(self):
        self.told.append("closed")


def monitors_of(*fakes, **more):
    return Monitors(fakes, RecordValues({}, windows=dict, global_batch_size=8), **more)


def train(monitors, *steps):
    for step in steps:
        monitors.log(step, {"train": {"loss": float(step)}})


def test_every_monitor_gets_the_numbers_of_every_step():
    one, other = Fake(), Fake()

    train(monitors_of(one, other), 1, 2)

    assert one.told == other.told == [(1, {"train/loss": 1.0}), (2, {"train/loss": 2.0})]


def test_training_losses_are_passed_on_so_often_and_evaluations_always():
    fake = Fake()
    monitors = monitors_of(fake, every=3)

    train(monitors, 1, 2, 3)
    evaluation = {"specific": {"t": 2.0}, "domains": {}, "general": None}
    monitors.log(4, {"train": {"loss": 4.0}, "evaluation": evaluation})

    assert fake.told == [(3, {"train/loss": 3.0}), (4, {"evaluation/specific/t": 2.0})]


def test_a_monitor_that_fails_is_an_event_and_is_tried_again_less_and_less_often():
    fake, well = Fake(broken=range(1, 10)), Fake()
    monitors = monitors_of(fake, well)

    train(monitors, *range(1, 17))

    assert fake.tried == [1, 4, 9]  # 2 were left out, 4, and 8 are
    assert [step for step, _ in well.told] == [*range(1, 17)]
    event = {
        "event": "monitor_failed",
        "monitor": "fake",
        "error": "ConnectionError: no route to host",
    }
    assert monitors.take_events() == [event]
    assert monitors.take_events() == []


def test_a_monitor_that_works_again_is_written_to_again_and_may_fail_anew():
    fake = Fake(broken=(1, 6))
    monitors = monitors_of(fake)

    train(monitors, *range(1, 10))

    assert fake.tried == [1, 4, 5, 6, 9]
    assert len(monitors.take_events()) == 2


def test_a_run_that_goes_back_says_so_before_it_goes_on():
    fake = Fake()

    train(monitors_of(fake), 1, 2, 3, 2)

    assert fake.told[-2:] == ["back to 1", (2, {"train/loss": 2.0})]


def test_the_checkpoint_of_an_earlier_step_comes_with_the_present_one_and_is_flushed():
    fake = Fake()
    monitors = monitors_of(fake)
    train(monitors, 1, 2, 3)

    monitors.log(2, {"checkpoint": {"waited_s": 0.5}})

    step, values = fake.told[-2]
    assert (step, values["seconds/checkpoint"], fake.told[-1]) == (3, 0.5, "flushed")


def test_without_monitors_nothing_is_computed():
    Monitors(()).log(1, {"train": {}})


def test_a_monitor_that_fails_at_its_end_does_not_keep_the_others_from_theirs():
    class Broken(Fake):
        def close(self):
            raise OSError

    well = Fake()
    monitors_of(Broken(), well).close()

    assert well.told == ["closed"]
