"""Writes one shard, whole or not at all. Knows neither text nor domains."""

import hashlib
from array import array
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from megadga.arrays import TokenArray
from megadga.shards.files import written_whole
from megadga.shards.indexed import (
    DTYPE_CODES,
    HEADER,
    MAGIC,
    VERSION,
    TokenType,
    index_path,
    tokens_path,
)
from megadga.shards.manifest import ShardEntry


def best_dtype(vocab_size: int) -> TokenType:
    """Return the smallest type that holds every id below ``vocab_size``: uint16, else int32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


class ShardWriter:
    """A shard that is being written; both files appear when the ``with`` block ends without error.

    >>> with ShardWriter(folder / "train-00000", best_dtype(32_000)) as writer:
    ...     writer.add_document(np.array([17, 4, 2]))
    >>> writer.entry.tokens
    3

    Args:
        prefix: Path of both files without ``.bin`` and ``.idx``; the folder must exist.
        dtype: Type of the tokens on disk, one of ``DTYPE_CODES``.
    """

    def __init__(self, prefix: Path, dtype: TokenType) -> None:
        self._prefix = prefix
        self._dtype = dtype
        self._code = {known: code for code, known in DTYPE_CODES.items()}[dtype]
        self._files = ExitStack()
        self._checksum = hashlib.sha256()
        self._lengths = array("i")
        self._max_token = -1
        self._entry: ShardEntry | None = None
        self._idx: BinaryIO
        self._bin: BinaryIO

    def __enter__(self) -> Self:
        # Last in, first renamed: an index never stands without its tokens.
        self._idx = self._files.enter_context(written_whole(index_path(self._prefix)))
        self._bin = self._files.enter_context(written_whole(tokens_path(self._prefix)))
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
        """What the manifest says of this shard; known once the ``with`` block has ended."""
        assert self._entry is not None, "the shard is still being written"
        return self._entry

    def add_document(self, tokens: TokenArray) -> None:
        """Append one document.

        Args:
            tokens: Its ids, EOD at the end included, shape ``(n,)``, ``n >= 1``.

        Raises:
            ValueError: If it is empty or an id does not fit the dtype.
            OSError: If the disk is full.
        """
        if tokens.ndim != 1 or tokens.size == 0:
            raise ValueError(f"tokens: expected shape (n,) with n >= 1, found {tokens.shape}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high > np.iinfo(self._dtype).max:
            raise ValueError(
                f"tokens: expected ids in [0, {np.iinfo(self._dtype).max}], found {low} to {high}"
            )
        content = np.ascontiguousarray(tokens, dtype=self._dtype).data
        self._bin.write(content)
        self._checksum.update(content)
        self._lengths.append(tokens.size)
        self._max_token = max(self._max_token, high)

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
        )
