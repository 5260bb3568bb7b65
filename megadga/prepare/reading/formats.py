"""Which format a file has: by its name if that says so, else by what is in it.

Knows how formats begin, not how they are read.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path

from megadga.prepare.reading.compression import DamageError, open_gzip, open_zstd
from megadga.prepare.reading.splits import name_type

HEAD_BYTES = 1 << 16
"""Read of a file whose name does not say what it is."""
_LINES_TRIED = 8
_BEGINS_OBJECT = re.compile(rb'\s*\{\s*["}]')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Format(Enum):
    """How a file holds documents."""

    LINES = auto()
    LINES_GZIP = auto()
    LINES_ZSTD = auto()
    PARQUET = auto()
    TABLE = auto()
    """Delimited values: not read."""
    WHOLE = auto()
    """One document, if it is text."""


_LINES = {"": Format.LINES, ".gz": Format.LINES_GZIP, ".zst": Format.LINES_ZSTD}
_BY_NAME: Mapping[tuple[str, str], Format] = {
    **{
        (kind, compression): found
        for kind in (".jsonl", ".ndjson", ".jsonlines")
        for compression, found in _LINES.items()
    },
    (".parquet", ""): Format.PARQUET,
    (".csv", ""): Format.TABLE,
    (".tsv", ""): Format.TABLE,
}


def named_format(path: Path) -> Format | None:
    """Return the format that a file's name says, in letters of any case; None: it says none."""
    return _BY_NAME.get(name_type(path.name))


def find_format(path: Path) -> Format:
    """Return the format of a file.

    Where the name says none, a file that begins with lines of JSON objects, plain or compressed,
    has ``LINES``, whatever it is called: ``wiki_00``, ``web.json``, ``c4.00000-of-01024.json.gz``.

    Raises:
        ConfigError: If it is zstd and the package zstandard is missing.
        OSError: If the file cannot be read.
    """
    if found := named_format(path):
        return found
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(b"PAR1"):
            return Format.PARQUET
        for magic, expand, found in (
            (b"\x1f\x8b", open_gzip, Format.LINES_GZIP),
            (b"\x28\xb5\x2f\xfd", open_zstd, Format.LINES_ZSTD),
        ):
            if head.startswith(magic):
                file.seek(0)
                try:
                    head = expand(file).read(HEAD_BYTES)
                except DamageError:
                    return Format.WHOLE  # which it is not either: reading it says so
                return found if _are_lines(head) else Format.WHOLE
    return Format.LINES if _are_lines(head) else Format.WHOLE


def _are_lines(head: bytes) -> bool:
    """Return whether a file that begins so holds one JSON object a line, some broken perhaps."""
    *whole, last = head.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    lines = [line for line in whole if not line.isspace() and line]
    if len(head) < HEAD_BYTES:
        lines += [last] if last.strip() else []
    elif not lines:
        return bool(_BEGINS_OBJECT.match(last))  # a line too long to see its end
    if not lines or not _BEGINS_OBJECT.match(lines[0]):
        return False
    return any(map(_is_object, lines[:_LINES_TRIED]))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
