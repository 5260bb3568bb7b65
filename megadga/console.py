"""Console behaviour of programs: exit codes, encodings, integer options, progress bars."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal, NoReturn, TextIO

USER_ERROR = 2
"""Exit code for errors of the user, as in argparse: starting again would not help."""
CLOSED = 141
"""Exit code after the output pipe was closed, as by ``| head``: that of SIGPIPE in shells."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as reported by shells."""


def run_main(main: Callable[[], int | None]) -> int:
    r"""Run a program and return its exit code.

    Characters that standard output cannot encode (Greek letters or Chinese text on an ASCII
    terminal, file names that are not UTF-8) are printed as ``\u03b7``. If the output pipe is
    closed, the program ends silently.

    Args:
        main: The program, including parsing of its command line; returns an exit code or None.
    """
    _show_everything(sys.stdout)
    try:
        try:
            code = main() or 0
        finally:
            sys.stdout.flush()  # here, where errors are handled
    except BrokenPipeError:
        _discard(sys.stdout)
        _discard(sys.stderr)
        return CLOSED
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)  # noqa: PTH119
        return INTERRUPTED
    return code


def parse_whole_number(text: str, *, least: int, most: int = (1 << 31) - 1) -> int:
    """Parse an integer option.

    Args:
        text: The value given.
        least: Minimum, at least 0.
        most: Maximum.

    Raises:
        argparse.ArgumentTypeError: If it is not an integer or out of range.
    """
    digits = text.lstrip("0") or text[:1]
    known = text.isascii() and text.isdecimal() and len(digits) <= len(str(most))
    if not known or not least <= int(digits) <= most:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {least}, at most {most}, found {text[:80]!r}"
        )
    return int(digits)


count = partial(parse_whole_number, least=1)
"""Parses a whole number of at least 1, below 2^31."""


non_negative_int = partial(parse_whole_number, least=0)
"""Parses a whole number from 0, below 2^31."""


def parse_positive(text: str) -> float:
    """Parse an option that is a number above 0.

    Raises:
        argparse.ArgumentTypeError: If it is no number, not finite, or not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text[:80]!r}")
    return value


def parse_step(text: str) -> int | Literal["best"]:
    """Parse the option that names a checkpoint: its optimizer step, or ``best``.

    Raises:
        argparse.ArgumentTypeError: If it is neither.
    """
    return "best" if text == "best" else parse_whole_number(text, least=1)


def tool_parser(description: str | None, epilog: str) -> argparse.ArgumentParser:
    """Return a parser for a tool, which prints its epilog without reformatting.

    Args:
        description: The docstring of the tool.
        epilog: Examples and further documentation.
    """
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def print_stderr(line: str) -> None:
    """Print a line for the user on standard error; a closed terminal does not end the program."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def shows_bars(stream: TextIO | None = None) -> bool:
    """Return whether a stream is a terminal of non-zero width; in containers it may be 0.

    Args:
        stream: The stream for progress bars; None: standard error.
    """
    drawn_on = sys.stderr if stream is None else stream
    if not drawn_on.isatty():
        return False
    try:
        return os.get_terminal_size(drawn_on.fileno()).columns > 0
    except (OSError, ValueError):  # a stream without a file descriptor
        return True


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program as ``run_main`` does, and end with its exit code."""
    sys.exit(run_main(main))


def _show_everything(stream: TextIO) -> None:
    if isinstance(stream, io.TextIOWrapper):  # false for replaced streams, which store text
        stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Redirect a stream to /dev/null, so that flushing it at exit does not fail."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream without a file descriptor, or a closed one
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
