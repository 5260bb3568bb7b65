"""What is found wrong with files, a line each. Knows no file format."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import final

from megadga.arrays import IntArray

MAX_LISTED = 10
"""Problems of one kind in one file that get a line each; how many more there are is one line."""


@final
class Problems:
    """Lines of the form ``THING: expected X, found Y``, in the order in which they were found."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._counts = Counter[tuple[Path, str]]()

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines, those that say how many more there are at the end."""
        rest = (
            f"{path}: expected no more {kind}, found {count - MAX_LISTED:,}"
            for (path, kind), count in self._counts.items()
            if count > MAX_LISTED
        )
        return (*self._lines, *rest)

    def add(self, line: str) -> None:
        """Add a problem of a kind of its own."""
        self._lines.append(line)

    def add_all(
        self, path: Path, kind: str, places: IntArray, describe: Callable[[int], str]
    ) -> None:
        """Add problems of one kind, of which there may be very many.

        Args:
            path: The file.
            kind: What they are, in the plural.
            places: Where they are, shape ``(n,)``.
            describe: Gives the line of one place, without the path.
        """
        room = max(MAX_LISTED - self._counts[path, kind], 0)
        self._lines += [f"{path}: {describe(place)}" for place in places[:room].tolist()]
        self._counts[path, kind] += places.size
