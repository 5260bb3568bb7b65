"""Reads JSON lines, plain or compressed, in independent spans."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from megadga.errors import ConfigError
from megadga.prepare.reading.dialogues import parse_dialogue
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
    """A part of a file; the spans of a file are disjoint and cover it.

    Attributes:
        file: The file.
        start: Its start: a byte offset in plain JSON lines, the index of a row group in parquet,
            else 0.
        stop: Its end, exclusive, as ``start``; None: the end of the file.
        input_bytes: Bytes on disk that it accounts for.
    """

    file: Path
    start: int
    stop: int | None
    input_bytes: int


def cut_bytes(file: Path, *, num_bytes: int, span_bytes: int) -> Iterator[Span]:
    """Yield spans of ``span_bytes`` bytes each; the last may be smaller.

    Args:
        file: The file.
        num_bytes: Its size.
        span_bytes: At least 1.
    """
    for start in range(0, num_bytes or 1, span_bytes):  # an empty file has one span
        stop = start + span_bytes
        if stop < num_bytes:
            yield Span(file, start, stop, span_bytes)
        else:
            yield Span(file, start, None, num_bytes - start)


def cut_groups(
    file: Path, group_sizes: Sequence[int], *, num_bytes: int, span_bytes: int
) -> Iterator[Span]:
    """Yield spans of consecutive row groups with at least ``span_bytes`` each, except the last.

    Args:
        file: The file.
        group_sizes: Size of each row group in any unit, at least 0; the file's bytes are assumed
            to be distributed proportionally.
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
    """Yield the records of all lines that begin inside a span of a plain file, then a SpanEnd.

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
            file.seek(span.start - 1)  # to see whether the span starts at a line
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
    """Yield the records of all lines of a compressed file, then a SpanEnd.

    Args:
        span: The whole file.
        keys: How records are read.
        expand: Opens a decompressing stream.
        max_record_bytes: Of a line; None: any number.

    Raises:
        ConfigError: If the file is damaged or a line is longer; names the line or its offset.
        OSError: If the file cannot be read.
    """
    with span.file.open("rb", buffering=0) as file:  # unbuffered, for progress
        yield from _iterate(expand(file), file, span, keys, max_record_bytes)


def check_size(file: Path, place: str, size: int, max_record_bytes: int | None) -> None:
    """Check that a record does not exceed the size limit.

    Args:
        file: Its file.
        place: Its location in the file, as ``", at byte 7"``; may be empty.
        size: Its size in bytes, or a lower bound.
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
    parse = parse_dialogue if keys.chat else parse_line
    number = 0
    counted = offset = file.tell()
    limit = -1 if max_record_bytes is None else max_record_bytes + 1
    while span.stop is None or offset < span.stop:
        try:
            line = lines.readline(limit)  # binary mode: only "\n" ends a line
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
            parse, line, keys, position=position, line=number, input_bytes=counted - before
        )
    yield SpanEnd(number, file.tell() - counted)
