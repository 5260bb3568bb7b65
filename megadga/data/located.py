"""Which documents of which shards a window of a domain spans. Reads a few entries of the index."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from megadga.data.domain import Domain
from megadga.data.indexed import HEADER, IndexedShard, index_path
from megadga.errors import ShardError


@dataclass(frozen=True)
class DocumentPart:
    """A part of a document.

    Attributes:
        shard: Path of its shard without ``.bin`` and ``.idx``.
        document: Its number in the shard, from 0.
        begin: First token of the part, from the document's first.
        end: Token after the last one of the part.
        length: Tokens of the document.
    """

    shard: Path
    document: int
    begin: int
    end: int
    length: int


def documents_of_window(domain: Domain, window: int) -> tuple[DocumentPart, ...]:
    """Return the parts of documents that a window consists of, in order.

    Args:
        domain: The domain.
        window: In ``[0, num_sequences)``.

    Raises:
        IndexError: If there is no such window.
        ShardError: If an index is missing or was truncated since it was opened.
    """
    (start,) = domain.positions(np.array([window])).tolist()
    pieces = domain.stream.locate(start, start + domain.sequence_length + 1)
    return tuple(part for shard, begin, end in pieces for part in _parts(shard, begin, end))


def _parts(shard: IndexedShard, begin: int, end: int) -> Iterator[DocumentPart]:
    """Yield the documents that hold the tokens ``[begin, end)`` of a shard."""
    path = index_path(shard.prefix)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(f"{path}: expected a shard's index, found {error.strerror}") from None
    try:
        offsets = _Entries(path, descriptor, HEADER.size + 4 * shard.num_sentences)
        bounds = _Entries(path, descriptor, HEADER.size + 12 * shard.num_sentences)
        size, documents = shard.dtype.itemsize, range(shard.num_documents)
        sentence = bisect_right(range(shard.num_sentences), begin * size, key=offsets.at) - 1
        document = bisect_right(documents, sentence, key=bounds.at) - 1

        def first_token(index: int) -> int:
            bound = bounds.at(index)
            is_end = bound == shard.num_sentences
            return shard.num_tokens if is_end else offsets.at(bound) // size

        while begin < end:
            first, after = first_token(document), first_token(document + 1)
            stop = min(end, after)
            if begin < stop:  # false for an empty document
                yield DocumentPart(
                    shard.prefix, document, begin - first, stop - first, after - first
                )
            begin, document = max(begin, stop), document + 1
    finally:
        os.close(descriptor)


@final
class _Entries:
    """A table of int64 in an index, of which single entries are read."""

    def __init__(self, path: Path, descriptor: int, offset: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._offset = offset

    def at(self, index: int) -> int:
        """Return one entry."""
        place = self._offset + 8 * index
        content = os.pread(self._descriptor, 8, place)
        if len(content) < 8:
            raise ShardError(f"{self._path}: expected 8 bytes at {place}, found {len(content)}")
        return int.from_bytes(content, "little", signed=True)
