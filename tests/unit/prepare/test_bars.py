import io

import pytest

from megadga.prepare.progress import ProgressBars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_shows_a_bar_for_each_stage():
    terminal = Terminal()
    with ProgressBars(terminal) as bars:
        bars("tokenizing", 10, "B")(10)
        bars("writing", 20, " tokens")(5)
    shown = terminal.getvalue()
    assert "tokenizing: 100%" in shown
    assert "writing:  25%" in shown


def test_a_log_gets_a_line_a_minute():
    log, clock = io.StringIO(), Clock()
    with ProgressBars(log, clock=clock) as bars:
        advance = bars("tokenizing", 4_000_000, "B")
        for second in range(1, 151):
            clock.now = 100.0 + second
            advance(20_000)
    first, second = log.getvalue().splitlines()
    assert first.startswith("tokenizing:  30% 1.20M/4.00M [01:00<02:20, 20.0kB/s")
    assert second.startswith("tokenizing:  60% 2.40M/4.00M [02:00<01:20, 20.0kB/s")


@pytest.mark.parametrize("seconds", [0.0, 59.0])
def test_a_log_is_left_alone_by_short_work(seconds):
    log, clock = io.StringIO(), Clock()
    with ProgressBars(log, clock=clock) as bars:
        advance = bars("tokenizing", 10, "B")
        clock.now += seconds
        advance(10)
    assert log.getvalue() == ""
