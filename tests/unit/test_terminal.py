"""Rows that stay on a terminal, read from an emulated screen."""

import tty

import pytest

from megadga.terminal import PinnedRows, can_pin_rows, release_rows
from tests.support.screens import Screen

XTERM = {"TERM": "xterm-256color"}


@pytest.fixture
def screen():
    with Screen(lines=6, columns=20) as opened:
        yield opened


@pytest.fixture
def rows(screen):
    pinned = PinnedRows.on(screen.stream)
    assert pinned is not None
    yield pinned
    pinned.close()


def test_what_others_write_scrolls_above_the_rows(screen, rows):
    screen.write("one\n")
    rows.show(["first", "second"])
    for number in range(2, 8):
        screen.write(f"line {number}\n")
    rows.print("ours")
    assert screen.lines() == ["line 6", "line 7", "ours", "", "first", "second"]


def test_rows_that_are_shown_again_replace_those_before(screen, rows):
    screen.write("$ run\n")
    rows.show(["a longer row", "second"])
    rows.show(["short", "2"])
    assert screen.lines() == ["$ run", "", "", "", "short", "2"]


def test_nothing_is_lost_when_rows_first_come_at_the_bottom_of_the_screen(screen, rows):
    screen.write("1\n2\n3\n4\n5\n6")
    rows.show(["row", "row"])
    screen.write(" goes on\n")
    assert screen.lines() == ["4", "5", "6 goes on", "", "row", "row"]


def test_more_and_fewer_rows_move_what_is_above(screen, rows):
    screen.write("1\n2\n3\n4\n")
    rows.show(["x"])
    rows.show(["x", "y", "z"])
    assert screen.lines() == ["3", "4", "", "x", "y", "z"]
    rows.show(["x"])
    screen.write("5\n6\n")
    assert screen.lines() == ["3", "4", "5", "6", "", "x"]


def test_a_row_as_wide_as_the_terminal_is_not_wrapped(screen, rows):
    rows.show(["-" * 20, "=" * 20])
    assert screen.lines()[3:] == ["", "-" * 20, "=" * 20]


@pytest.mark.parametrize(("lines", "columns"), [(9, 20), (4, 20), (6, 40), (6, 10)])
def test_rows_follow_a_terminal_that_is_resized(screen, rows, lines, columns):
    screen.write("kept\n")
    rows.show(["first", "second"])
    screen.lines()
    screen.resize(lines, columns)
    rows.show(["first", "second"])
    screen.write("next\n")
    found = screen.lines()
    assert found[-2:] == ["first", "second"]
    # An emulator that becomes lower drops its first lines.
    assert [line for line in found[:-2] if line] in (["kept", "next"], ["next"][lines >= 6 :])


def test_one_row_is_left_to_others(screen, rows):
    rows.show([*"abcdefgh"])
    assert screen.lines() == ["", *"abcde"]


def test_the_terminal_is_given_back(screen, rows):
    screen.write("done\n")
    rows.show(["first", "second"])
    rows.close()
    for number in range(6):
        screen.write(f"{number}\n")
    assert screen.lines() == ["1", "2", "3", "4", "5", ""]
    assert screen.cursor() == (5, 0, False)


def test_another_process_can_give_the_terminal_back(screen, rows):
    screen.write("killed\n")
    rows.show(["first", "second"])
    release_rows(screen.stream, XTERM)
    assert screen.lines() == ["killed", *[""] * 5]
    screen.write("1\n2\n3\n4\n5\n6")
    assert screen.lines() == ["1", "2", "3", "4", "5", "6"]


def test_the_cursor_stays_where_others_write(screen, rows):
    screen.write("unfinished")
    rows.show(["first"])
    assert screen.cursor() == (0, 10, False)


def test_a_terminal_that_takes_nothing_does_not_block(screen, rows):
    tty.setraw(screen.stream)
    rows.show(["old"])
    screen.lines()
    for _ in range(5000):  # nobody reads
        rows.print("x" * 50)
    assert not rows.takes_rows
    rows.show(["dropped"])
    assert "dropped" not in screen.lines()
    while not rows.takes_rows:
        screen.lines()
    rows.show(["new"])
    assert screen.lines()[-1] == "new"


def test_a_closed_terminal_is_written_to_no_more(screen, rows):
    rows.show(["first"])
    screen.hang_up()
    rows.show(["second"])
    rows.print("line")
    assert not rows.takes_rows
    rows.close()


@pytest.mark.parametrize("kind", ["dumb", "", None])
def test_a_terminal_without_a_cursor_has_no_rows(screen, kind):
    environment = {} if kind is None else {"TERM": kind}
    assert not can_pin_rows(screen.stream, environment)
    release_rows(screen.stream, environment)
    assert screen.lines() == [""] * 6


def test_a_terminal_without_a_size_has_no_rows():
    with Screen(lines=0, columns=0) as screen:
        assert not can_pin_rows(screen.stream, XTERM)


def test_a_file_has_no_rows(tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert not can_pin_rows(file, XTERM)
        release_rows(file, XTERM)
    assert (tmp_path / "log").read_text() == ""


def test_a_terminal_has_rows(screen):
    assert can_pin_rows(screen.stream, XTERM)
    assert not can_pin_rows(screen.stream, {"TERM": "dumb"})
