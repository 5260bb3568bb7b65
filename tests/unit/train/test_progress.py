import errno
import io

import pytest

from megadga.train.progress import ProgressLines, format_duration


def progress(stream, *, total_steps=4, line_interval=2, clock=lambda: 0.0):
    return ProgressLines(
        total_steps=total_steps,
        weights={"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3},
        stream=stream,
        line_interval=line_interval,
        clock=clock,
    )


def train(loss):
    return {"train": {"loss": loss, "tokens_per_s": 12345.6}}


def test_logs_get_periodic_lines_with_the_remaining_time():
    stream = io.StringIO()
    seconds = iter([1000.0, 1030.0, 1090.0])  # after steps 1, 2 and 4
    shown = progress(stream, total_steps=5, clock=lambda: next(seconds))

    for step in range(1, 6):
        shown.log(step, train(step / 10))

    assert stream.getvalue().splitlines() == [
        "step 1/5  loss 0.100  12,346 tokens/s  b 0.400, d 0.300, c 0.200",
        "step 2/5  loss 0.200  12,346 tokens/s  b 0.400, d 0.300, c 0.200  01:30 left",
        "step 4/5  loss 0.400  12,346 tokens/s  b 0.400, d 0.300, c 0.200  00:30 left",
        "step 5/5  loss 0.500  12,346 tokens/s  b 0.400, d 0.300, c 0.200",
    ]


def test_the_time_left_goes_by_the_speed_since_this_process_started():
    stream = io.StringIO()
    seconds = iter([0.0, 40.0])
    shown = progress(stream, total_steps=1000, line_interval=50, clock=lambda: next(seconds))
    shown.log(110, train(1.0))
    shown.log(150, train(1.0))
    assert stream.getvalue().splitlines()[-1].endswith("  14:10 left")


def test_the_start_event_is_not_shown():
    stream = io.StringIO()
    progress(stream).log(0, {"event": {"event": "start", "averaged_weights": {"a": 1.0}}})
    assert stream.getvalue() == ""


def test_an_event_lists_a_few_of_thousands_of_names():
    stream = io.StringIO()
    event = {"event": "step_not_finite", "what": ["loss"], "domains": [*map(str, range(3000))]}

    progress(stream).log(1, {"event": event})

    assert stream.getvalue() == (
        "step 1: step_not_finite (what [loss], domains [0, 1, 2, 3, 4, 5, 6, 7 and 2992 more])\n"
    )


def test_an_update_changes_the_weights_that_are_shown():
    stream = io.StringIO()
    update = {"averaged_weights": {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}}

    progress(stream, line_interval=1).log(1, {**train(1.0), "update": update})

    assert stream.getvalue().endswith("a 0.700, b 0.100, c 0.100\n")


def test_evaluations_and_events_are_reported_whatever_the_interval():
    stream = io.StringIO()
    evaluation = {"specific": {"qa": 2.5}, "domains": {"a": 3.0}, "general": 3.0}
    event = {"event": "update_skipped", "reason": "alignments are not finite"}

    progress(stream).log(1, {**train(1.0), "evaluation": evaluation, "event": event})

    assert stream.getvalue().splitlines()[1:] == [
        "step 1: validation qa 2.500, general 3.000",
        "step 1: update_skipped (reason alignments are not finite)",
    ]


def test_a_run_that_goes_back_is_timed_from_there():
    stream = io.StringIO()
    seconds = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    shown = progress(stream, total_steps=10, line_interval=1, clock=lambda: next(seconds))
    for step in (5, 6, 4, 5):
        shown.log(step, train(1.0))
    assert stream.getvalue().splitlines()[-1].endswith("  00:50 left")


def test_advice_is_a_sentence():
    stream = io.StringIO()
    event = {"event": "advice", "finding": "noise", "text": "Updates are noise: probe more."}
    progress(stream).log(7, {"event": event})
    assert stream.getvalue() == "step 7: advice: Updates are noise: probe more.\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "00:00"), (61.0, "01:01"), (3725.0, "1:02:05"), (4e5, "111:06:40")]
)
def test_durations_have_hours_from_an_hour_on(seconds, text):
    assert format_duration(seconds) == text


def test_a_closed_terminal_does_not_end_the_run():
    class Closed(io.StringIO):
        open = True

        def write(self, text):
            if not self.open:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    stream = Closed()
    shown = progress(stream, line_interval=1)
    shown.log(1, train(1.0))
    stream.open = False

    evaluation = {"specific": {"qa": 2.5}, "domains": {"a": 3.0}, "general": 3.0}
    for step in (2, 3, 4):
        shown.log(step, {**train(1.0), "evaluation": evaluation})
