"""A table of all numbers: ``step,name,value``."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import final

from megadga.data.files import atomic_write
from megadga.train.appending import AppendedFile

CSV_FILE = "metrics.csv"
"""Name of the file in its folder."""
_HEADER = "step,name,value\n"


@final
class CsvMonitor:
    """Appends a line a number; what is later than a step that the run goes back to is removed.

    Args:
        folder: Of the file ``metrics.csv``; made if it is not there.
        step: Optimizer steps completed when the process starts.
    """

    name = "csv"

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / CSV_FILE
        self.go_back(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Monitor``."""
        lines = _Lines()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerows((step, name, repr(value)) for name, value in values.items())
        self._file.append("".join(lines.text).encode())

    def go_back(self, step: int) -> None:
        """See ``Monitor``."""
        with atomic_write(self._path) as kept:
            kept.write(_HEADER.encode())
            if self._path.exists():
                with self._path.open("rb") as file:
                    kept.writelines(line for line in file if _is_until(line, step))
        self._file = AppendedFile(self._path)

    def flush(self) -> None:
        """See ``Monitor``: it has been written."""

    def close(self) -> None:
        """See ``Monitor``."""


class _Lines:
    """A file of text in memory, as the csv module writes to."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def write(self, line: str) -> None:
        self.text.append(line)


def _is_until(line: bytes, step: int) -> bool:
    """Tell whether a line is whole, and of a step that was not later; a header is not."""
    number = line.partition(b",")[0]
    return line.endswith(b"\n") and number.isdigit() and int(number) <= step
