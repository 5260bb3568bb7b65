"""Writes one shard, whole or not at all. Knows neither text nor domains."""

import hashlib
import json
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.shards.files import written_whole
from megadga.shards.indexed import (
    DTYPE_CODES,
    HEADER,
    MAGIC,
    VERSION,
    TokenType,
    ids_path,
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
        ids: Whether every document comes with an id, which is kept in a third file.
    """

    def __init__(self, prefix: Path, dtype: TokenType, *, ids: bool = False) -> None:
        self._prefix = prefix
        self._dtype = dtype
        self._code = {known: code for code, known in DTYPE_CODES.items()}[dtype]
        self._files = ExitStack()
        self._ids_path = ids_path(prefix) if ids else None
        self._checksum = hashlib.sha256()
        self._ids_checksum = hashlib.sha256()
        self._lengths = array("i")
        self._max_token = -1
        self._entry: ShardEntry | None = None
        self._idx: BinaryIO
        self._bin: BinaryIO
        self._ids: BinaryIO | None = None

    def __enter__(self) -> Self:
        # Last in, first renamed: an index never stands without what belongs to it.
        self._idx = self._files.enter_context(written_whole(index_path(self._prefix)))
        self._bin = self._files.enter_context(written_whole(tokens_path(self._prefix)))
        if self._ids_path is not None:
            self._ids = self._files.enter_context(written_whole(self._ids_path))
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
            tokens: Ids of all of them, one document after the other, EOD at the end of each
                included, shape ``(lengths.sum(),)``.
            lengths: Tokens of each document, at least 1, shape ``(n,)``, ``n >= 1``.
            ids: Where each came from; none where the shard keeps none.

        Raises:
            ValueError: If the lengths are not those of the tokens, a token does not fit the dtype,
                or there are ids where none are kept, or none where they are.
            OSError: If the disk is full.
        """
        if lengths.size == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != tokens.size:
            raise ValueError(
                f"lengths: expected at least one, all >= 1, with a sum of {tokens.size}, "
                f"found {lengths}"
            )
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
        self._max_token = max(self._max_token, high)

    def _add_ids(self, ids: Sequence[str], *, expected: int) -> None:
        if len(ids) != expected:
            raise ValueError(f"ids: expected {expected}, found {len(ids)}")
        if self._ids is not None:
            content = b"".join(json.dumps(one).encode() + b"\n" for one in ids)
            self._ids.write(content)
            self._ids_checksum.update(content)

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
        )
