"""Compressed files as streams of bytes. Knows frames, not what is in them."""

import io
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol, final

from megadga.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# At a time, which bounds what one step expands to: gzip makes at most 1,032 bytes of one, zstd
# 32,768.
GZIP_READ_BYTES = 1 << 12
ZSTD_READ_BYTES = 1 << 9
BUFFER_BYTES = 1 << 18
GZIP_WINDOW = 31  # zlib's number for "with gzip's header and checksum"
MAX_ZSTD_WINDOW = 1 << 31  # what zstd --long=31 writes; no memory is taken before a file asks


class Decompressor(Protocol):
    """Expands one frame: what ``zlib`` and ``zstandard`` call a decompression object."""

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the frame."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """Return what the frame's next bytes expand to."""
        ...


class DamageError(Exception):
    """A compressed file is not whole. Whoever reads its lines says which, by ``ConfigError``."""


def open_gzip(raw: BinaryIO) -> BinaryIO:
    """Return what a gzip file expands to; reading it raises ``DamageError``."""
    new = lambda: zlib.decompressobj(GZIP_WINDOW)  # noqa: E731
    return _buffered(_Frames(raw, "gzip", new, zlib.error, GZIP_READ_BYTES, padding=b"\0"))


def open_zstd(raw: BinaryIO) -> BinaryIO:
    """Return what a zstd file expands to; reading it raises ``DamageError``.

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
    """Reads a file of one frame or more, the end of each of which is insisted on.

    Between frames and after the last there may be padding, as tapes and blocks of disks leave it.
    ``gzip.GzipFile`` takes half as long again, and zstandard's own reader takes a file that breaks
    off for one that ends.
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
        """Return bytes for the present frame or a new one, none at the end of the file."""
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
