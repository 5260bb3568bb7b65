"""Rows at the bottom of a terminal that stay, while everything else scrolls above them.

The terminal itself keeps them apart, by its scrolling region: what any process prints meanwhile,
other ranks and C++ included, appears above the rows, and nothing has to be captured for that.
"""

import os
import select
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self, TextIO, final

_SAVE, _RESTORE = "\x1b7", "\x1b8"
"""Cursor position; setting a scrolling region moves the cursor."""


_DOWN = "\x1bD"
"""One row down in the same column; scrolls at the bottom of the scrolling region."""


_ERASE_BELOW, _ERASE_ROW, _PLAIN = "\x1b[J", "\x1b[2K", "\x1b[0m"


_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


_WHOLE_SCREEN = f"{_SAVE}\x1b[r{_RESTORE}"


_MOST_WAITING = 1 << 20
"""Bytes kept for a terminal that takes none, as after Ctrl-S."""


_CLOSING_S = 1.0


def can_pin_rows(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether a stream is a terminal that has a cursor, and a size.

    Args:
        stream: For example standard error.
        environment: Has the terminal's kind, ``TERM``.
    """
    if not stream.isatty() or environment.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # a stream without a file descriptor
        return False
    return columns > 0 and lines > 0


def release_rows(stream: TextIO, environment: Mapping[str, str]) -> None:
    """Give a terminal back all of its rows, for a process that could not; else nothing is seen."""
    if can_pin_rows(stream, environment):
        # Not by the stream, which a signal handler may have interrupted.
        with suppress(OSError):  # the terminal may be closed
            os.write(stream.fileno(), f"{_WHOLE_SCREEN}{_ERASE_BELOW}{_SHOW_CURSOR}".encode())


@final
class PinnedRows:
    """The last rows of a terminal.

    A terminal that takes nothing, after Ctrl-S or over a slow connection, never blocks: it gets
    no rows until it has taken those before. One that is closed gets none any more.

    Args:
        descriptor: Of the terminal, open for writing and not blocking; closed with the rows.
        encoding: Of text on it; characters without one are replaced.
    """

    def __init__(self, descriptor: int, *, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._waiting = b""
        self._is_open = True
        self._num_rows = 0
        self._size = os.get_terminal_size(descriptor)

    @classmethod
    def on(cls, stream: TextIO) -> Self | None:
        """Return rows on the terminal of a stream; None: it cannot be opened once more.

        A terminal of another user, as after ``su``, cannot.
        """
        # Opened anew: not to block is a property that programs share with those that they inherit
        # a terminal from. Without O_NOCTTY, a rank, which leads a session, would get its signals.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        try:
            descriptor = os.open(f"/proc/self/fd/{stream.fileno()}", flags)
        except OSError:
            return None
        return cls(descriptor, encoding=stream.encoding)

    @property
    def size(self) -> os.terminal_size:
        """The terminal's present size."""
        if self._is_open:
            with suppress(OSError):  # the terminal was closed
                return os.get_terminal_size(self._descriptor)
        return self._size

    @property
    def takes_rows(self) -> bool:
        """Whether rows that are shown now would be seen."""
        self._write("")
        return self._is_open and not self._waiting

    def show(self, rows: Sequence[str]) -> None:
        """Show rows, each as wide as the terminal at most, in place of those before.

        At least one row is left for everything else.
        """
        if not self.takes_rows:
            return
        size = self.size
        rows = rows[: max(0, size.lines - 1)]
        written = [_HIDE_CURSOR]
        if size != self._size:  # the terminal may have moved the rows; the cursor is above them
            written.append(f"{_WHOLE_SCREEN}{_ERASE_BELOW}")
            self._size, self._num_rows = size, 0
        if (more := len(rows) - self._num_rows) > 0:
            written.append(f"{_DOWN * more}\x1b[{more}A")
        first = size.lines - len(rows) + 1
        region = f"\x1b[1;{first - 1}r" if rows else "\x1b[r"
        written.append(f"{_SAVE}{region}")
        freed = ("",) * max(0, self._num_rows - len(rows))
        for number, row in enumerate((*freed, *rows), start=first - len(freed)):
            written += (f"\x1b[{number};1H", _ERASE_ROW, row, _PLAIN)
        written.append(f"{_RESTORE}{_SHOW_CURSOR}")
        self._num_rows = len(rows)
        self._write("".join(written))

    def print(self, line: str) -> None:
        """Print a line above the rows."""
        if len(self._waiting) < _MOST_WAITING:
            self._write(f"{line}\n")

    def close(self) -> None:
        """Remove the rows, and give the terminal back; can be called again."""
        if not self._is_open:
            return
        if self._num_rows:
            self._write(f"{_WHOLE_SCREEN}{_ERASE_BELOW}")
        if self._waiting and select.select([], [self._descriptor], [], _CLOSING_S)[1]:
            self._write("")
        self._lose()

    def _write(self, text: str) -> None:
        self._waiting += text.encode(self._encoding, errors="replace")
        try:
            while self._is_open and self._waiting:
                written = os.write(self._descriptor, self._waiting)
                self._waiting = self._waiting[written:]
        except BlockingIOError:
            pass  # the rest is written next time
        except OSError:  # the terminal was closed
            self._lose()

    def _lose(self) -> None:
        if self._is_open:
            self._is_open, self._waiting = False, b""
            os.close(self._descriptor)
