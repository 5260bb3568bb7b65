"""JSON lines, plain or compressed, in spans that can be read independently."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from megadga.errors import ConfigError
from megadga.prepare.reading.formats import DamageError
from megadga.prepare.reading.records import (
    BYTE_ORDER_MARK,
    Document,
    InvalidRecord,
    Keys,
    SpanEnd,
    make_record,
    parse_line,
)


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


BUFFER_BYTES = 1 << 18


def iterate_plain(
    span: Span, keys: Keys, *, max_record_bytes: int | None = None
) -> Iterator[Document | InvalidRecord | SpanEnd]:
    """Yield the records of all lines that begin inside a span of a plain file, then its end.

    Args:
        span: A part of the file.
        keys: How records are read.
        max_record_bytes: Of a line; None: any number.

    Raises:
        ConfigError: If a line is longer.
        OSError: If the file cannot be read.
    """
    with span.file.open("rb", buffering=BUFFER_BYTES) as file:
        if span.start:
            file.seek(span.start - 1)  # the span begins with a line if this byte ends one
            while (span.stop is None or file.tell() < span.stop) and (
                part := file.readline(BUFFER_BYTES)
            ):
                if part.endswith(b"\n"):
                    break
        yield from _iterate(file, file, span, keys, max_record_bytes)


def iterate_compressed(
    span: Span,
    keys: Keys,
    expand: Callable[[BinaryIO], BinaryIO],
    *,
    max_record_bytes: int | None = None,
) -> Iterator[Document | InvalidRecord | SpanEnd]:
    """Yield the records of all lines of a compressed file, then its end.

    Args:
        span: The whole file.
        keys: How records are read.
        expand: Opens what the bytes of the file expand to.
        max_record_bytes: Of a line; None: any number.

    Raises:
        ConfigError: If the file is damaged or a line is longer; names the line or its place.
        OSError: If the file cannot be read.
    """
    with span.file.open("rb", buffering=0) as file:  # it tells how far expanding has come
        yield from _iterate(expand(file), file, span, keys, max_record_bytes)


def check_size(file: Path, place: str, size: int, max_record_bytes: int | None) -> None:
    """Check that a record is not too large to be read in the memory that there is for it.

    Args:
        file: Where it is.
        place: Where it is in the file, as ``", at byte 7"``; may be empty.
        size: Its bytes, or as many as are known.
        max_record_bytes: As many as it may have; None: any number.

    Raises:
        ConfigError: If it has more.
    """
    if max_record_bytes is not None and size > max_record_bytes:
        raise ConfigError(
            f"{file}: expected records of at most {max_record_bytes:,} bytes (a quarter of "
            f"--memory), found a longer one{place}: give more memory"
        )


def _iterate(
    lines: BinaryIO, file: BinaryIO, span: Span, keys: Keys, max_record_bytes: int | None
) -> Iterator[Document | InvalidRecord | SpanEnd]:
    number = 0
    counted = offset = file.tell()
    limit = -1 if max_record_bytes is None else max_record_bytes + 1
    while span.stop is None or offset < span.stop:
        try:
            line = lines.readline(limit)  # bytes: lines end at "\n" alone
        except DamageError as error:
            raise ConfigError(f"{span.file}:{number + 1}: {error}") from error
        if not line:
            break
        check_size(span.file, f", at byte {offset:,} of its text", len(line), max_record_bytes)
        number += 1
        position, offset = offset, offset + len(line)
        if position == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.isspace() or not line:
            continue
        before, counted = counted, file.tell()
        yield make_record(
            parse_line, line, keys, position=position, line=number, input_bytes=counted - before
        )
    yield SpanEnd(number, file.tell() - counted)
