"""Records that were left out: how many are too many, and the list of them. Knows no formats."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from megadga.errors import ConfigError
from megadga.prepare.pipeline.corpus import Part, Task
from megadga.prepare.pipeline.workplace import TaskRecord, Workplace
from megadga.prepare.reading.formats import Format, find_format
from megadga.shards.files import written_whole

BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class MaxBad:
    """The most bad records that a build may leave out.

    Attributes:
        count: Records, at least 0; None: any number.
        share: Of all records, in [0, 1].
    """

    count: int | None = 0
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"100"`` or ``"0.1%"``.

        Raises:
            ConfigError: If it is neither.
        """
        number = text.removesuffix("%")
        if text.isdecimal():
            return cls(int(text))
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) <= 100.0:
            return cls(None, float(number) / 100.0)
        raise ConfigError(f"max_bad: expected a number or a share such as 0.1%, found {text!r}")

    def __str__(self) -> str:
        """Return what ``parse`` reads."""
        return f"{100.0 * self.share:g}%" if self.count is None else str(self.count)

    def exceeded(self, num_bad: int, num_records: int, *, complete: bool) -> bool:
        """Return whether so many are too many.

        Args:
            num_bad: Bad records so far.
            num_records: Records so far.
            complete: Whether these are all; a share says something only then.
        """
        if self.count is not None:
            return num_bad > self.count
        return complete and num_bad > self.share * num_records


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad record, and where a person finds it.

    Attributes:
        file: The file.
        line: The line, or in parquet the row, from 1.
        reason: What was expected and what was found.
    """

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        """Return it as an error says it."""
        return f"{self.file}:{self.line}: {self.reason}"


def find_rejects(
    tasks: Sequence[Task], records: Mapping[int, TaskRecord], workplace: Workplace
) -> Iterator[Reject]:
    """Yield the bad records of all finished tasks, in the order of the corpus.

    Args:
        tasks: All tasks, finished or not.
        records: What came of the finished ones, by number.
        workplace: Where they left what they rejected.
    """
    before: int | None = 0  # lines of the file before the part; None: nobody has counted them
    for task in tasks:
        record = records.get(task.number)
        rejected = [] if record is None else list(workplace.rejected(task.number))
        for number, part in enumerate(task.parts):
            if part.span.start == 0 or find_format(part.span.file) is Format.PARQUET:
                before = 0  # the rows of parquet are numbered through the file already
            for one in rejected:
                if one.part == number:
                    before = _count_lines(part) if before is None else before
                    yield Reject(part.span.file, before + one.line, one.reason)
            lines = None if record is None else record.lines[number]
            before = None if before is None or lines is None else before + lines


def write_rejects(path: Path, rejects: Iterator[Reject]) -> None:
    """Write bad records, a JSON object with ``file``, ``line`` and ``reason`` a line.

    Raises:
        OSError: If the disk refuses.
    """
    with written_whole(path) as file:
        for one in rejects:
            fields = {"file": str(one.file), "line": one.line, "reason": one.reason}
            file.write(json.dumps(fields).encode() + b"\n")


def _count_lines(part: Part) -> int:
    """Return how many lines of a plain file begin before a part of it."""
    count, remaining = 1, part.span.start - 1
    with part.span.file.open("rb") as file:
        while block := file.read(min(BLOCK_BYTES, remaining)):
            count += block.count(b"\n")
            remaining -= len(block)
    return count
