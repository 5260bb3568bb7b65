"""Measuring told from training by a clock that tests move."""

from dataclasses import dataclass

import pytest

from megadga.plugin.records import ObservedOverhead, ProbeTimer


@dataclass
class InFlightStart:
    """Shows what it was last set to."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Course:
    """A run whose parts take as long as they are told to."""

    def __init__(self) -> None:
        self.watch = InFlightStart(now_s=100.0)
        self.clock = ProbeTimer(self.watch)

    def step(self, seconds: float, *, in_flight: bool = False) -> None:
        self.clock.begin_step()
        self.watch.now_s += seconds
        self.clock.end_step(in_flight=in_flight)

    def probe(self, seconds: float) -> None:
        with self.clock.probing():
            self.watch.now_s += seconds

    def idle(self, seconds: float) -> None:
        self.watch.now_s += seconds


@pytest.fixture
def course() -> Course:
    return Course()


def test_probe_time_is_that_of_probes_between_steps(course: Course):
    course.step(2.0)
    course.step(4.0)
    course.probe(1.5)

    assert course.clock.take() == ObservedOverhead(probe_s=1.5, share=1.5 / 6.0)


def test_several_probes_add_up(course: Course):
    course.step(4.0)
    course.probe(1.0)
    course.probe(2.0)

    assert course.clock.take() == ObservedOverhead(probe_s=3.0, share=0.75)


def test_other_time_between_steps_is_not_counted(course: Course):
    course.step(4.0)
    course.idle(50.0)
    course.probe(1.0)

    assert course.clock.take() == ObservedOverhead(probe_s=1.0, share=0.25)


def test_an_in_flight_step_counts_its_extra_time(course: Course):
    course.step(2.0)
    course.step(4.0)
    course.probe(0.5)
    course.step(5.0, in_flight=True)

    # Plain steps take 3 s: two of the in_flight one's seconds are the probe's.
    assert course.clock.take() == ObservedOverhead(probe_s=2.5, share=2.5 / 9.0)


def test_a_faster_in_flight_step_counts_below_zero(course: Course):
    """Or means over noisy times would be above what measuring takes."""
    course.step(4.0)
    course.probe(1.0)
    course.step(1.0, in_flight=True)

    assert course.clock.take() == ObservedOverhead(probe_s=-2.0, share=-0.25)


def test_without_plain_steps_the_extra_time_is_unknown(course: Course):
    course.probe(1.0)
    course.step(4.0, in_flight=True)

    assert course.clock.take() == ObservedOverhead(probe_s=1.0, share=0.25)


def test_before_the_first_step_there_is_no_share(course: Course):
    course.probe(1.0)

    assert course.clock.take() == ObservedOverhead(probe_s=1.0, share=None)


def test_taking_resets_the_timer(course: Course):
    course.step(4.0)
    course.probe(1.0)
    course.step(7.0, in_flight=True)
    course.clock.take()
    course.step(2.0)

    assert course.clock.take() == ObservedOverhead(probe_s=0.0, share=0.0)


def test_the_end_of_a_step_that_was_not_begun_is_not_counted(course: Course):
    course.step(2.0)
    course.idle(8.0)
    course.clock.end_step(in_flight=False)
    course.probe(1.0)

    assert course.clock.take() == ObservedOverhead(probe_s=1.0, share=0.5)


def test_the_time_of_a_failed_probe_is_counted(course: Course):
    course.step(4.0)

    def fail() -> None:
        with course.clock.probing():
            course.idle(1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert course.clock.take() == ObservedOverhead(probe_s=1.0, share=0.25)
