"""Megatron's indexed format: reads and writes a ``.bin`` of tokens with its ``.idx``."""

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray, TokenArray
from megadga.data.files import atomic_write, checksum
from megadga.data.manifest import ShardEntry
from megadga.data.targets import find_spans, spans_path, unmark_targets
from megadga.errors import ShardError

MAGIC = b"MMIDIDX\x00\x00"


VERSION = 1


HEADER = struct.Struct("<9sQBQQ")


LAST_SENTENCE = struct.Struct("<iq")


TokenType = np.dtype[np.integer[Any]]


DTYPE_CODES: dict[int, TokenType] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}


def index_path(prefix: Path) -> Path:
    """Return the path of a shard's index; the prefix may contain dots."""
    return Path(f"{prefix}.idx")


def tokens_path(prefix: Path) -> Path:
    """Return the path of a shard's tokens; the prefix may contain dots."""
    return Path(_tokens_name(prefix))


def _tokens_name(prefix: Path) -> str:
    """Return the name of the same file, in less time than it takes to make a ``Path``."""
    return f"{prefix}.bin"


def ids_path(prefix: Path) -> Path:
    """Return the path of a shard's document ids, one JSON string per line."""
    return Path(f"{prefix}.ids")


@dataclass(slots=True)
class _Version:
    """Version of a ``.bin`` at the time it was opened.

    Attributes:
        stamp: Its size in bytes and modification time in nanoseconds.
        sha256: Its checksum; None if unknown.
        found: A different stamp seen while reading; None if there was none.
    """

    stamp: tuple[int, int]
    sha256: str | None
    found: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class IndexedShard:
    """A shard with a validated header; its arrays are read on access.

    Attributes:
        prefix: Path of both files without ``.bin`` and ``.idx``.
        dtype: Type of the tokens on disk.
        num_sentences: Number of entries of ``lengths``.
        num_documents: Number of documents; equals ``num_sentences`` in shards written by megadga.
        num_tokens: Number of tokens in the ``.bin``.
    """

    prefix: Path
    dtype: TokenType
    num_sentences: int
    num_documents: int
    num_tokens: int
    _version: _Version = field(repr=False, compare=False)

    @classmethod
    def open(cls, prefix: Path, *, sha256: str | None = None) -> "IndexedShard":
        """Read and check a shard's header, in constant time.

        The magic, version, dtype and both files' sizes are checked here; that sentences are
        contiguous is checked when ``lengths`` is read.

        Args:
            prefix: Path of both files without ``.bin`` and ``.idx``.
            sha256: Checksum of the ``.bin``, used to tell a rewritten file from one whose time of
                modification changed; None if unknown.

        Raises:
            ShardError: If a file is missing, truncated, or not of this format.
        """
        path = index_path(prefix)
        with _opened(path, "a shard's index") as descriptor:
            size = os.fstat(descriptor).st_size
            header = os.pread(descriptor, HEADER.size, 0)
            dtype, num_sentences, num_bounds = _check_header(path, header, size)
            end = _last_byte(path, descriptor, dtype, num_sentences)
        version = _Version(_check_size(tokens_path(prefix), end), sha256)
        num_tokens = end // dtype.itemsize
        return cls(prefix, dtype, num_sentences, num_bounds - 1, num_tokens, version)

    def read(self, starts: IntArray, count: int) -> TokenArray:
        """Return ``count`` consecutive tokens from each start position.

        Opens the file for this call and uses pread: a memory map is slow to create, holds a file
        descriptor, and raises SIGBUS when the file is truncated.

        Args:
            starts: Positions in ``[0, num_tokens - count]``, shape ``(n,)``.
            count: Tokens per row, at least 1.

        Returns:
            Token ids, read-only, shape ``(n, count)``.

        Raises:
            ShardError: If the ``.bin`` is missing or was truncated since the shard was opened.
                Other changes are detected by ``check_unchanged``.
        """
        size = count * self.dtype.itemsize
        offsets = (starts * self.dtype.itemsize).tolist()
        # Not `tokens_path`: a `Path` takes longer to make than a file to open.
        with _opened(_tokens_name(self.prefix), "a shard's tokens") as descriptor:
            rows = [os.pread(descriptor, size, offset) for offset in offsets]
            stamp = _stamp(os.fstat(descriptor))
        content = b"".join(rows)
        if len(content) != size * len(rows):
            offset, row = next(
                (offset, row) for offset, row in zip(offsets, rows, strict=True) if len(row) < size
            )
            raise ShardError(
                f"{tokens_path(self.prefix)}: expected {size} bytes at {offset}, found {len(row)}"
            )
        if stamp != self._version.stamp:
            self._version.found = stamp
        return np.frombuffer(content, dtype=self.dtype).reshape(starts.size, count)

    def check_unchanged(self) -> None:
        """Raise if the ``.bin`` was rewritten since the shard was opened.

        If its size or time differed during a read, the checksum decides, if known: a file that was
        touched or copied is unchanged. Otherwise there is nothing to do.

        Raises:
            ShardError: If the content has changed.
        """
        if self._version.found is None:
            return
        path, expected = tokens_path(self.prefix), self._version.sha256
        try:
            found = None if expected is None else checksum(path)
        except OSError as error:
            raise ShardError(f"{path}: expected tokens, found {error.strerror}") from error
        if found is None or found != expected:
            raise ShardError(f"{path}: expected the file as it was when opened, found it modified")
        self._version.stamp, self._version.found = self._version.found, None

    @property
    def tokens(self) -> TokenArray:
        """All tokens in order, shape ``(num_tokens,)``; a new read-only memory map per access.

        For inspection; training uses ``read``.

        Raises:
            ShardError: If the ``.bin`` is missing or was truncated since the shard was opened.
        """
        path = tokens_path(self.prefix)
        if self.num_tokens == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype=self.dtype)
        _check_size(path, self.num_tokens * self.dtype.itemsize)
        try:
            return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))
        except OSError as error:
            raise ShardError(
                f"{path}: expected a shard's tokens, found {error.strerror}"
            ) from error

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sentence, shape ``(num_sentences,)``.

        Raises:
            ShardError: If the sentences are not contiguous.
        """
        lengths = self._read("<i4", self.num_sentences, HEADER.size)
        pointers = self._read("<i8", self.num_sentences, HEADER.size + lengths.nbytes)
        expected = np.cumsum(lengths, dtype=np.int64) - lengths
        wrong = np.flatnonzero((pointers != expected * self.dtype.itemsize) | (lengths < 0))
        if wrong.size:
            first = int(wrong[0])
            raise ShardError(
                f"{index_path(self.prefix)}: sentence {first}: expected byte offset "
                f"{expected[first] * self.dtype.itemsize}, found {pointers[first]} "
                f"with length {lengths[first]}"
            )
        return lengths

    @property
    def document_bounds(self) -> IntArray:
        """First sentence of each document, then ``num_sentences``; shape ``(num_documents + 1,)``.

        Raises:
            ShardError: If they are not non-decreasing from 0 to ``num_sentences``.
        """
        bounds = self._read("<i8", self.num_documents + 1, HEADER.size + 12 * self.num_sentences)
        if bounds[0] != 0 or bounds[-1] != self.num_sentences or (np.diff(bounds) < 0).any():
            raise ShardError(
                f"{index_path(self.prefix)}: expected document bounds that rise from 0 to "
                f"{self.num_sentences}, found {bounds[0]} to {bounds[-1]}"
            )
        return bounds

    @property
    def document_starts(self) -> IntArray:
        """First token of each document, then ``num_tokens``; shape ``(num_documents + 1,)``.

        Raises:
            ShardError: If the index is damaged.
        """
        ends = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))
        return ends[self.document_bounds]

    def document(self, index: int) -> TokenArray:
        """Return one document's tokens. Reads the whole index, so use it for inspection only.

        Raises:
            IndexError: If ``index`` is not in ``[0, num_documents)``.
            ShardError: If the index is damaged.
        """
        if not 0 <= index < self.num_documents:
            raise IndexError(
                f"document: expected 0 <= index < {self.num_documents}, found {index}"
            )
        first, last = self.document_starts[index : index + 2]
        return self.tokens[first:last]

    def _read(self, dtype: str, count: int, offset: int) -> NDArray[Any]:
        path = index_path(self.prefix)
        try:
            array = np.fromfile(path, dtype=dtype, count=count, offset=offset)
        except OSError as error:
            raise ShardError(
                f"{path}: expected a shard's index, found {error.strerror}"
            ) from error
        if array.size != count:
            raise ShardError(f"{path}: expected {count} numbers at {offset}, found {array.size}")
        return array


@contextmanager
def _opened(path: Path | str, content: str) -> Generator[int]:
    """Open a file for reading; ``OSError`` becomes ``ShardError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ShardError(f"{path}: expected {content}, found {error.strerror}") from error


def _check_header(path: Path, header: bytes, size: int) -> tuple[TokenType, int, int]:
    """Return dtype, number of sentences and number of document bounds."""
    if len(header) < HEADER.size:
        raise ShardError(f"{path}: expected a header of {HEADER.size} bytes, found {len(header)}")
    magic, version, code, num_sentences, num_bounds = HEADER.unpack(header)
    if magic != MAGIC:
        raise ShardError(f"{path}: expected the magic {MAGIC!r}, found {magic!r}")
    if version != VERSION:
        raise ShardError(f"{path}: expected version {VERSION}, found {version}")
    if code not in DTYPE_CODES:
        known = ", ".join(f"{code} ({dtype.name})" for code, dtype in DTYPE_CODES.items())
        raise ShardError(f"{path}: expected a dtype code among {known}, found {code}")
    expected = HEADER.size + 12 * num_sentences + 8 * num_bounds
    if num_sentences and num_bounds and size == expected + num_sentences:
        raise ShardError(
            f"{path}: expected an index of text, found a multimodal index, with a mode byte for "
            f"each of {num_sentences} sentences at the end"
        )
    if num_bounds < 1 or size != expected:
        raise ShardError(
            f"{path}: expected {expected} bytes for {num_sentences} sentences and "
            f"{num_bounds} document bounds (at least 1), found {size}"
        )
    return DTYPE_CODES[code], num_sentences, num_bounds


def _last_byte(path: Path, descriptor: int, dtype: TokenType, num_sentences: int) -> int:
    """Return the byte offset of the end of the last sentence in the ``.bin``."""
    if num_sentences == 0:
        return 0
    lengths_end = HEADER.size + 4 * num_sentences
    last = os.pread(descriptor, 4, lengths_end - 4)
    last += os.pread(descriptor, 8, lengths_end + 8 * num_sentences - 8)
    if len(last) != LAST_SENTENCE.size:
        raise ShardError(f"{path}: expected {LAST_SENTENCE.size} more bytes, found {len(last)}")
    length, pointer = LAST_SENTENCE.unpack(last)
    if pointer < 0 or pointer % dtype.itemsize or length < 0:
        raise ShardError(
            f"{path}: last sentence: expected a byte offset >= 0 in steps of {dtype.itemsize} "
            f"and a length >= 0, found {pointer} and {length}"
        )
    return pointer + length * dtype.itemsize


def _check_size(path: Path, expected: int) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"{path}: expected a shard's tokens, found {error.strerror}") from error
    if status.st_size != expected:
        raise ShardError(f"{path}: expected {expected} bytes by its index, found {status.st_size}")
    return _stamp(status)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def best_dtype(vocab_size: int) -> TokenType:
    """Return the smallest type for ids below ``vocab_size``: uint16, else int32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


class ShardWriter:
    """Writes a shard; its files get their final names if the ``with`` block ends without error.

    >>> with ShardWriter(folder / "train-00000", best_dtype(32_000)) as writer:
    ...     writer.add_document(np.array([17, 4, 2]))
    >>> writer.entry.tokens
    3

    Args:
        prefix: Path of both files without ``.bin`` and ``.idx``; the folder must exist.
        dtype: Type of the tokens on disk, one of ``DTYPE_CODES``.
        ids: Whether every document has an id, stored in a third file.
        spans: Whether only some tokens are trained, whose spans are stored in another file; the
            others are marked as inputs alone (see ``targets``).
    """

    def __init__(
        self, prefix: Path, dtype: TokenType, *, ids: bool = False, spans: bool = False
    ) -> None:
        self._prefix = prefix
        self._dtype = dtype
        self._code = {known: code for code, known in DTYPE_CODES.items()}[dtype]
        self._files = ExitStack()
        self._ids_path = ids_path(prefix) if ids else None
        self._spans_path = spans_path(prefix) if spans else None
        self._checksum = hashlib.sha256()
        self._ids_checksum = hashlib.sha256()
        self._spans_checksum = hashlib.sha256()
        self._num_tokens = self._num_trained = 0
        self._lengths = array("i")
        self._max_token = -1
        self._entry: ShardEntry | None = None
        self._idx: BinaryIO
        self._bin: BinaryIO
        self._ids: BinaryIO | None = None
        self._spans: BinaryIO | None = None

    def __enter__(self) -> Self:
        # Renamed in reverse order: an index never exists without its other files.
        self._idx = self._files.enter_context(atomic_write(index_path(self._prefix)))
        self._bin = self._files.enter_context(atomic_write(tokens_path(self._prefix)))
        if self._ids_path is not None:
            self._ids = self._files.enter_context(atomic_write(self._ids_path))
        if self._spans_path is not None:
            self._spans = self._files.enter_context(atomic_write(self._spans_path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._files.__exit__(kind, error, trace)
            return
        with self._files:
            self._entry = self._finish()

    @property
    def entry(self) -> ShardEntry:
        """The shard's manifest entry; available after the ``with`` block."""
        assert self._entry is not None, "the shard is still being written"
        return self._entry

    def add_document(self, tokens: TokenArray, document_id: str | None = None) -> None:
        """Append one document; see ``add_documents``."""
        if tokens.ndim != 1 or tokens.size == 0:
            raise ValueError(f"tokens: expected shape (n,) with n >= 1, found {tokens.shape}")
        ids = () if document_id is None else (document_id,)
        self.add_documents(tokens, np.array([tokens.size], dtype=np.int64), ids)

    def add_documents(
        self, tokens: TokenArray, lengths: IntArray, ids: Sequence[str] = ()
    ) -> None:
        """Append documents.

        Args:
            tokens: Concatenated ids, with EOD at the end of each document, shape
                ``(lengths.sum(),)``; with ``spans``, as ``mark_targets`` returns them.
            lengths: Tokens of each document, at least 1, shape ``(n,)``, ``n >= 1``.
            ids: Ids of the documents; empty if the shard stores none.

        Raises:
            ValueError: If lengths and tokens do not match, a token does not fit the dtype, or the
                number of ids is wrong.
            OSError: If writing fails.
        """
        if lengths.size == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != tokens.size:
            raise ValueError(
                f"lengths: expected at least one, all >= 1, with a sum of {tokens.size}, "
                f"found {lengths}"
            )
        if self._spans is not None:
            tokens = self._add_spans(self._spans, tokens, lengths)
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high > np.iinfo(self._dtype).max:
            raise ValueError(
                f"tokens: expected ids in [0, {np.iinfo(self._dtype).max}], found {low} to {high}"
            )
        self._add_ids(ids, expected=0 if self._ids is None else lengths.size)
        content = np.ascontiguousarray(tokens, dtype=self._dtype).data
        self._bin.write(content)
        self._checksum.update(content)
        self._lengths.extend(lengths.tolist())
        self._num_tokens += tokens.size
        self._max_token = max(self._max_token, high)

    def _add_ids(self, ids: Sequence[str], *, expected: int) -> None:
        if len(ids) != expected:
            raise ValueError(f"ids: expected {expected}, found {len(ids)}")
        if self._ids is not None:
            content = b"".join(json.dumps(one).encode() + b"\n" for one in ids)
            self._ids.write(content)
            self._ids_checksum.update(content)

    def _add_spans(self, file: BinaryIO, tokens: TokenArray, lengths: IntArray) -> TokenArray:
        """Write the spans of the trained tokens; return the ids of all."""
        ids, trained = unmark_targets(tokens)
        spans = find_spans(trained, np.cumsum(lengths) - lengths) + self._num_tokens
        content = spans.astype("<i8").tobytes()
        file.write(content)
        self._spans_checksum.update(content)
        self._num_trained += int(trained.sum())
        return ids

    def _finish(self) -> ShardEntry:
        lengths = np.array(self._lengths, dtype="<i4")
        ends = np.cumsum(lengths, dtype=np.int64)
        pointers = (ends - lengths) * self._dtype.itemsize
        num = lengths.size
        index = b"".join(
            (
                HEADER.pack(MAGIC, VERSION, self._code, num, num + 1),
                lengths.tobytes(),
                pointers.astype("<i8").tobytes(),
                np.arange(num + 1, dtype="<i8").tobytes(),
            )
        )
        self._idx.write(index)
        return ShardEntry(
            file=self._prefix.name,
            documents=num,
            tokens=int(ends[-1]) if num else 0,
            max_token=self._max_token,
            bin_sha256=self._checksum.hexdigest(),
            idx_sha256=hashlib.sha256(index).hexdigest(),
            ids_sha256=None if self._ids is None else self._ids_checksum.hexdigest(),
            spans_sha256=None if self._spans is None else self._spans_checksum.hexdigest(),
            trained_tokens=None if self._spans is None else self._num_trained,
        )
