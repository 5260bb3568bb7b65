"""Detects file formats and decompresses files."""

import io
import json
import re
import zlib
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, final

from megadga.errors import ConfigError
from megadga.prepare.reading.records import BYTE_ORDER_MARK
from megadga.prepare.reading.splits import name_type

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


# Bytes per read, which limits the output per step: the maximum ratio is 1,032 for gzip and 32,768
# for zstd.
GZIP_READ_BYTES = 1 << 12


ZSTD_READ_BYTES = 1 << 9


BUFFER_BYTES = 1 << 18


GZIP_WINDOW = 31  # zlib's number for "with gzip's header and checksum"


MAX_ZSTD_WINDOW = 1 << 31  # as for zstd --long=31; allocated only if a file needs it


class Decompressor(Protocol):
    """Decompresses one frame, like the decompression objects of ``zlib`` and ``zstandard``."""

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the frame."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """Return the decompressed bytes of the frame's next input."""
        ...


class DamageError(Exception):
    """A compressed file is damaged; converted to ``ConfigError`` with the file's name."""


def open_gzip(raw: BinaryIO) -> BinaryIO:
    """Open a decompressing stream of a gzip file; reading it may raise ``DamageError``."""
    new = lambda: zlib.decompressobj(GZIP_WINDOW)  # noqa: E731
    return _buffered(_Frames(raw, "gzip", new, zlib.error, GZIP_READ_BYTES, padding=b"\0"))


def open_zstd(raw: BinaryIO) -> BinaryIO:
    """Open a decompressing stream of a zstd file; reading it may raise ``DamageError``.

    Raises:
        ConfigError: If the package zstandard is missing.
    """
    try:
        import zstandard  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ConfigError(
            f"{raw.name}: expected the package zstandard to read it with, found {error}: "
            'install "megadga[data]"'
        ) from error
    context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    return _buffered(
        _Frames(raw, "zstd", context.decompressobj, zstandard.ZstdError, ZSTD_READ_BYTES)
    )


def _buffered(frames: io.RawIOBase) -> BinaryIO:
    return io.BufferedReader(frames, BUFFER_BYTES)


@final
class _Frames(io.RawIOBase):
    """Reads a file of one or more frames, each of which must be complete.

    Allows padding between and after frames, as written to tapes and block devices.
    ``gzip.GzipFile`` is 50 % slower, and zstandard's own reader does not detect truncated files.
    """

    def __init__(
        self,
        raw: BinaryIO,
        kind: str,
        new: Callable[[], Decompressor],
        damage: type[Exception],
        read_bytes: int,
        *,
        padding: bytes = b"",
    ) -> None:
        self._raw = raw
        self._padding = padding
        self._read_bytes = read_bytes
        self._kind = kind
        self._new = new
        self._damage = damage
        self._frame = new()
        self._expanded = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        target = memoryview(buffer)
        while not self._expanded:
            data = self._next_data()
            if not data:
                return 0
            try:
                self._expanded = memoryview(self._frame.decompress(data))
            except self._damage as error:
                raise DamageError(f"expected whole {self._kind}, found {error}") from error
        count = min(len(target), len(self._expanded))
        target[:count] = self._expanded[:count]
        self._expanded = self._expanded[count:]
        return count

    def _next_data(self) -> bytes:
        """Return input for the current or the next frame, empty at the end of the file."""
        if not self._frame.eof:
            data = self._raw.read(self._read_bytes)
            if not data:
                raise DamageError(f"expected whole {self._kind}, found that it breaks off")
            return data
        data = self._frame.unused_data or self._raw.read(self._read_bytes)
        while data and self._padding and not (data := data.lstrip(self._padding)):
            data = self._raw.read(self._read_bytes)
        if data:
            self._frame = self._new()
        return data


HEAD_BYTES = 1 << 16
"""Bytes read to detect the format of a file with an ambiguous name."""


ARROW_FILE = b"ARROW1\0\0"
"""Start of an Arrow file; a stream of Arrow is recognised by its name alone."""


_LINES_TRIED = 8


_BEGINS_OBJECT = re.compile(rb'\s*\{\s*["}]')


class Format(Enum):
    """How documents are stored in a file."""

    LINES = auto()
    LINES_GZIP = auto()
    LINES_ZSTD = auto()
    PARQUET = auto()
    ARROW = auto()
    TABLE = auto()
    """Delimited values, which are not supported."""
    SINGLE_DOCUMENT = auto()
    """One document, if it is text."""


_LINES = {"": Format.LINES, ".gz": Format.LINES_GZIP, ".zst": Format.LINES_ZSTD}


_BY_NAME: Mapping[tuple[str, str], Format] = {
    **{
        (kind, compression): found
        for kind in (".jsonl", ".ndjson", ".jsonlines")
        for compression, found in _LINES.items()
    },
    (".parquet", ""): Format.PARQUET,
    (".arrow", ""): Format.ARROW,
    (".csv", ""): Format.TABLE,
    (".tsv", ""): Format.TABLE,
}


def named_format(path: Path) -> Format | None:
    """Return the format given by a file's name, ignoring case; None if it is ambiguous."""
    return _BY_NAME.get(name_type(path.name))


def find_format(path: Path) -> Format:
    """Return the format of a file.

    If the name is ambiguous, a file that begins with lines of JSON objects, plain or compressed,
    contains JSON lines: ``wiki_00``, ``web.json``, ``c4.00000-of-01024.json.gz``.

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
        if head.startswith(ARROW_FILE):
            return Format.ARROW
        for magic, expand, found in (
            (b"\x1f\x8b", open_gzip, Format.LINES_GZIP),
            (b"\x28\xb5\x2f\xfd", open_zstd, Format.LINES_ZSTD),
        ):
            if head.startswith(magic):
                file.seek(0)
                try:
                    head = expand(file).read(HEAD_BYTES)
                except DamageError:
                    return Format.SINGLE_DOCUMENT  # reading it reports the damage
                return found if _are_lines(head) else Format.SINGLE_DOCUMENT
    return Format.LINES if _are_lines(head) else Format.SINGLE_DOCUMENT


def _are_lines(head: bytes) -> bool:
    """Return whether the beginning of a file looks like JSON lines, some possibly invalid."""
    *whole, last = head.removeprefix(BYTE_ORDER_MARK).split(b"\n")
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
