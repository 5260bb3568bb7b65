"""Parts of files that can be read by themselves. Knows sizes, and opens no file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file; all spans of a file make up the file.

    Attributes:
        file: The file.
        start: Where the part begins: the offset of a byte in plain JSON lines, the number of a row
            group in parquet, else 0.
        stop: Where it ends, exclusive, as ``start``; None: at the end of the file.
        input_bytes: Bytes on the disk that it accounts for.
    """

    file: Path
    start: int
    stop: int | None
    input_bytes: int


def cut_bytes(file: Path, *, num_bytes: int, span_bytes: int) -> Iterator[Span]:
    """Yield spans of ``span_bytes`` bytes each, but for the last.

    Args:
        file: The file.
        num_bytes: Its size.
        span_bytes: At least 1.
    """
    for start in range(0, num_bytes or 1, span_bytes):  # an empty file is one span, too
        stop = start + span_bytes
        if stop < num_bytes:
            yield Span(file, start, stop, span_bytes)
        else:
            yield Span(file, start, None, num_bytes - start)


def cut_groups(
    file: Path, group_sizes: Sequence[int], *, num_bytes: int, span_bytes: int
) -> Iterator[Span]:
    """Yield spans of neighbouring groups, each with ``span_bytes`` or more, but for the last.

    Args:
        file: The file.
        group_sizes: Size of each of its row groups in any unit, at least 0; the bytes of the file
            are taken to be spread likewise.
        num_bytes: The size of the file.
        span_bytes: At least 1.
    """
    total = max(1, sum(group_sizes))
    start = begin = 0
    for stop, size in enumerate(accumulate(group_sizes[:-1]), start=1):
        end = num_bytes * size // total
        if end - begin >= span_bytes:
            yield Span(file, start, stop, end - begin)
            start, begin = stop, end
    yield Span(file, start, None, num_bytes - begin)
