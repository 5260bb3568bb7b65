"""Records out of JSON lines, plain or compressed. Knows where lines begin, not what they hold."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from megadga.errors import ConfigError
from megadga.prepare.reading.compression import DamageError
from megadga.prepare.reading.records import (
    Document,
    Keys,
    Reject,
    SpanEnd,
    make_record,
    parse_line,
)
from megadga.prepare.reading.spans import Span

BUFFER_BYTES = 1 << 18


def iterate_plain(span: Span, keys: Keys) -> Iterator[Document | Reject | SpanEnd]:
    """Yield the records of all lines that begin inside a span of a plain file, then its end.

    Raises:
        OSError: If the file cannot be read.
    """
    with span.file.open("rb", buffering=BUFFER_BYTES) as file:
        if span.start:
            file.seek(span.start - 1)  # the span begins with a line if this byte ends one
            file.readline(-1 if span.stop is None else span.stop - span.start + 1)
        yield from _iterate(file, file, span, keys)


def iterate_compressed(
    span: Span, keys: Keys, expand: Callable[[BinaryIO], BinaryIO]
) -> Iterator[Document | Reject | SpanEnd]:
    """Yield the records of all lines of a compressed file, then its end.

    Args:
        span: The whole file.
        keys: How records are read.
        expand: Opens what the bytes of the file expand to.

    Raises:
        ConfigError: If the file is damaged; names the line.
        OSError: If the file cannot be read.
    """
    with span.file.open("rb", buffering=0) as file:  # it tells how far expanding has come
        yield from _iterate(expand(file), file, span, keys)


def _iterate(
    lines: BinaryIO, file: BinaryIO, span: Span, keys: Keys
) -> Iterator[Document | Reject | SpanEnd]:
    number = 0
    counted = offset = file.tell()
    while span.stop is None or offset < span.stop:
        try:
            line = lines.readline()  # bytes: lines end at "\n" alone
        except DamageError as error:
            raise ConfigError(f"{span.file}:{number + 1}: {error}") from error
        if not line:
            break
        number += 1
        position, offset = offset, offset + len(line)
        if line.isspace():
            continue
        before, counted = counted, file.tell()
        yield make_record(
            parse_line, line, keys, position=position, line=number, input_bytes=counted - before
        )
    yield SpanEnd(number, file.tell() - counted)
