"""A terminal whose screen is read as its user sees it."""

import fcntl
import os
import pty
import struct
import termios
from contextlib import suppress
from typing import Self

import pyte


class Screen:
    """A terminal of a size, emulated from all that is written to it.

    Attributes:
        stream: Open on the terminal; what a program has as its standard error.
    """

    def __init__(self, *, lines: int, columns: int) -> None:
        self._end, terminal = pty.openpty()
        self.stream = os.fdopen(terminal, "w")
        os.set_blocking(self._end, False)
        self._screen = pyte.Screen(columns, lines)
        self._emulator = pyte.ByteStream(self._screen)
        self._set_size(lines, columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        with suppress(OSError):  # hung up
            os.close(self._end)

    def resize(self, lines: int, columns: int) -> None:
        """Give the terminal another size, as a window manager does."""
        self._screen.resize(lines, columns)
        self._set_size(lines, columns)

    def _set_size(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.stream, termios.TIOCSWINSZ, size)

    def write(self, text: str) -> None:
        """Write as another process does."""
        os.write(self.stream.fileno(), text.encode())

    def press(self, keys: str) -> None:
        """Press keys, ``\\x13`` for Ctrl-S."""
        os.write(self._end, keys.encode())

    def lines(self) -> list[str]:
        """Return what is on the screen, without blanks at the ends of lines."""
        self._read()
        return [line.rstrip() for line in self._screen.display]

    def cursor(self) -> tuple[int, int, bool]:
        """Return the cursor's line and column, from 0, and whether it is hidden."""
        self._read()
        return self._screen.cursor.y, self._screen.cursor.x, self._screen.cursor.hidden

    def colours(self) -> set[str]:
        """Return the foreground colours on the screen."""
        self._read()
        return {cell.fg for line in self._screen.buffer.values() for cell in line.values()}

    def hang_up(self) -> None:
        """Close the terminal under its programs."""
        os.close(self._end)

    def _read(self) -> None:
        with suppress(BlockingIOError, OSError):
            while read := os.read(self._end, 1 << 16):
                self._emulator.feed(read)
