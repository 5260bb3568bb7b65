"""What a program does in the console that it is started in.

How it reads numbers there, prints where not every sign can be shown, draws bars where there is
room for them, and ends where its output is cut off.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

CLOSED = 141
"""Exit code after the reader of the output has gone, as under ``| head``: what a shell shows of a
program that SIGPIPE ended."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell shows it."""


def run_main(main: Callable[[], int | None]) -> int:
    r"""Run a program and return its exit code.

    What standard output cannot encode (Greek letters or Chinese text on an ASCII terminal, names
    of files that are no UTF-8) is printed as ``\u03b7``; if whoever reads the output goes away,
    the program ends without a word.

    Args:
        main: The program, from parsing its command line on; None: it has succeeded.
    """
    _show_everything(sys.stdout)
    try:
        try:
            code = main() or 0
        finally:
            sys.stdout.flush()  # here, where it can fail in order
    except BrokenPipeError:
        _discard(sys.stdout)
        _discard(sys.stderr)
        return CLOSED
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)  # noqa: PTH119
        return INTERRUPTED
    return code


def parse_whole_number(text: str, *, least: int, most: int = (1 << 31) - 1) -> int:
    """Return the number that an option says.

    Args:
        text: What was given.
        least: The smallest that it may be, at least 0.
        most: The largest.

    Raises:
        argparse.ArgumentTypeError: If it is none, or out of range.
    """
    digits = text.lstrip("0") or text[:1]
    known = text.isascii() and text.isdecimal() and len(digits) <= len(str(most))
    if not known or not least <= int(digits) <= most:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {least}, at most {most}, found {text[:80]!r}"
        )
    return int(digits)


def tool_parser(description: str | None, epilog: str) -> argparse.ArgumentParser:
    """Return the parser of a tool, which shows its epilog as it is written.

    Args:
        description: The docstring of the tool.
        epilog: An example, and more.
    """
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def can_draw_bars(stream: TextIO | None = None) -> bool:
    """Return whether a stream is a terminal with columns: that of a container may have none.

    Args:
        stream: What bars are drawn on; None: standard error.
    """
    drawn_on = sys.stderr if stream is None else stream
    if not drawn_on.isatty():
        return False
    try:
        return os.get_terminal_size(drawn_on.fileno()).columns > 0
    except (OSError, ValueError):  # none of the system's: whoever made it knows its width
        return True


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program as ``run_main`` does, and end with its exit code."""
    sys.exit(run_main(main))


def _show_everything(stream: TextIO) -> None:
    if isinstance(stream, io.TextIOWrapper):  # else it was replaced, and keeps text as it is
        stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, so that flushing it at the end does not fail."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # it was replaced by one without a file, or is closed
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
