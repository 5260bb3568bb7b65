"""Invalid records of a build: where they are in their files, and what is wrong with them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.data.files import atomic_write
from megadga.prepare.pipeline.corpus import FilePart, Task
from megadga.prepare.pipeline.work_folder import (
    TaskRecord,
    WorkFolder,
)
from megadga.prepare.reading.formats import Format, find_format

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """An invalid record with its location.

    Attributes:
        file: The file.
        line: Its line, or row in parquet, from 1.
        reason: What was expected and what was found.
    """

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        """Return it in the format of error messages."""
        return f"{self.file}:{self.line}: {self.reason}"


def find_rejects(
    tasks: Sequence[Task], records: Mapping[int, TaskRecord], work_folder: WorkFolder
) -> Iterator[RejectedRecord]:
    """Yield the invalid records of all finished tasks, in the order of the corpus.

    Args:
        tasks: All tasks.
        records: The records of finished tasks, by number.
        work_folder: The build's work folder.
    """
    before: int | None = 0  # lines of the file before the part; None: not counted yet
    for task in tasks:
        record = records.get(task.number)
        rejected = [] if record is None else list(work_folder.rejected(task.number))
        for number, part in enumerate(task.parts):
            if part.span.start == 0 or find_format(part.span.file) is Format.PARQUET:
                before = 0  # parquet rows are already numbered within the file
            for one in rejected:
                if one.part == number:
                    before = _count_lines(part) if before is None else before
                    yield RejectedRecord(part.span.file, before + one.line, one.reason)
            lines = None if record is None else record.lines[number]
            before = None if before is None or lines is None else before + lines


def write_rejects(path: Path, rejects: Iterator[RejectedRecord]) -> None:
    """Write invalid records, one JSON object with ``file``, ``line`` and ``reason`` per line.

    Raises:
        OSError: If writing fails.
    """
    with atomic_write(path) as file:
        for one in rejects:
            fields = {"file": str(one.file), "line": one.line, "reason": one.reason}
            file.write(json.dumps(fields).encode() + b"\n")


def _count_lines(part: FilePart) -> int:
    """Return the number of lines of a plain file before a part."""
    count, remaining = 1, part.span.start - 1
    with part.span.file.open("rb") as file:
        while block := file.read(min(_BLOCK_BYTES, remaining)):
            count += block.count(b"\n")
            remaining -= len(block)
    return count
