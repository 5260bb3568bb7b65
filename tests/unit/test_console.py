"""Programs whose reader goes away, and terminals that cannot show everything."""

import argparse
import io
import os
import re
import sys
from contextlib import contextmanager, suppress

import pytest

from megadga import cli
from megadga.console import CLOSED, INTERRUPTED, parse_whole_number, run_main
from tests.support.ranks import REPOSITORY
from tests.support.runs import write_run

PROGRAMS = sorted(
    path
    for folder in ("megadga", "tools", "launch")
    for path in (REPOSITORY / folder).rglob("*")
    if path.is_file() and path.suffix in ("", ".py")
)


@contextmanager
def closed_output():
    """Have a standard output whose reader has gone; yield standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = io.TextIOWrapper(os.fdopen(writing, "wb"), encoding="utf-8")
    with stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", errors := io.StringIO())
        yield errors


@contextmanager
def ascii_output():
    """Have a standard output that shows ASCII alone; yield the bytes that are shown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO(), encoding="ascii"))
        yield shown


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_program_whose_reader_has_gone_ends_without_a_word(lines):
    def main() -> None:
        for number in range(lines):
            print(number)

    with closed_output() as errors:
        assert run_main(main) == CLOSED
        sys.stdout.flush()  # as the interpreter does at its end
        assert errors.getvalue() == ""


def test_a_program_that_leaves_by_itself_does_so_too():
    def main() -> None:
        argparse.ArgumentParser().parse_args(["--help"])

    with closed_output():
        assert run_main(main) == CLOSED


def test_exit_codes_pass_through():
    def leave() -> None:
        raise SystemExit(7)

    assert [run_main(lambda: None), run_main(lambda: 3)] == [0, 3]
    with pytest.raises(SystemExit, match="7"):
        run_main(leave)


def test_an_interrupt_is_a_line(capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert run_main(interrupt) == INTERRUPTED
    assert re.fullmatch(r".*: interrupted\n", capsys.readouterr().err)


def test_what_a_terminal_cannot_show_is_escaped():
    with ascii_output() as shown:
        assert run_main(lambda: print("η = 0.3, 文, \udce9")) == 0
        assert shown.getvalue() == b"\\u03b7 = 0.3, \\u6587, \\udce9\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["describe", "run.yaml"], ["train", "--help"], ["doctor", "--help"]]
)
def test_commands_print_on_an_ascii_terminal(tmp_path, monkeypatch, arguments):
    write_run(tmp_path).rename(tmp_path / "run.yaml")
    monkeypatch.chdir(tmp_path)
    with ascii_output() as shown:
        with suppress(SystemExit):  # of argparse, after its help
            assert cli.main(arguments) == 0
        assert shown.getvalue()


def test_commands_end_with_their_reader(tmp_path):
    with closed_output() as errors:
        assert cli.main(["describe", str(write_run(tmp_path))]) == CLOSED
        assert errors.getvalue() == ""


def test_every_program_starts_in_a_console():
    installed = REPOSITORY / "megadga" / "cli.py"  # its `main` is what the program calls
    starting = {
        path: lines.rstrip().rpartition("if __name__ == ")[2].partition("\n")[2]
        for path in PROGRAMS
        if 'if __name__ == "__main__"' in (lines := path.read_text(encoding="utf-8"))
    }
    starting |= {path: path.read_text() for path in (REPOSITORY / "launch").iterdir()}
    assert len(starting) > 30
    for path, start in starting.items():
        if path != installed:
            assert "run_program(" in start, f"{path}: expected run_program, found {start!r}"


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), ("2147483647", 2147483647)])
def test_a_whole_number_is_read(text, number):
    assert parse_whole_number(text, least=1) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "²", "٣", "2147483648", "9" * 5000, "1e3"])
def test_a_number_out_of_range_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1"):
        parse_whole_number(text, least=1)
