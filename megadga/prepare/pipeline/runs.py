"""Sorted runs: tokenized documents in the order of the corpus, in files that are merged later."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.files import atomic_write
from megadga.data.indexed import TokenType, best_dtype
from megadga.data.permutation import KeyArray
from megadga.data.targets import MARKED_TYPE

SPLIT_SHIFT = 32


BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class TokenizedDocuments:
    """Tokenized documents with their sort keys.

    Attributes:
        tokens: Concatenated tokens, with EOD after each document; of dialogues, as
            ``mark_targets`` returns them.
        lengths: Tokens per document, at least 1, shape ``(n,)``.
        groups: Group (split and domain) of each, shape ``(n,)``.
        keys: Random sort key of each, shape ``(n,)``.
        ids: Ids of the source records; empty if there are none.
    """

    tokens: TokenArray
    lengths: IntArray
    groups: IntArray
    keys: KeyArray
    ids: Sequence[str]

    def without(self, groups: IntArray) -> "TokenizedDocuments":
        """Return the documents that are not in the given groups."""
        kept = ~np.isin(self.groups, groups)
        return TokenizedDocuments(
            tokens=self.tokens[np.repeat(kept, self.lengths)],
            lengths=self.lengths[kept],
            groups=self.groups[kept],
            keys=self.keys[kept],
            ids=[one for one, keep in zip(self.ids, kept, strict=True) if keep]
            if self.ids
            else (),
        )


@dataclass(frozen=True, slots=True)
class SortPosition:
    """A position in the sort order (split, domain, key), before all documents not below it.

    Attributes:
        split: Index of the split.
        domain: Index of the domain.
        key: Sort key, in [0, 2^64).
    """

    split: int
    domain: int
    key: int = 0


def run_dtype(vocab_size: int, *, chat: bool) -> TokenType:
    """Return the type of the tokens in runs; of dialogues, they may be marked."""
    return MARKED_TYPE if chat else best_dtype(vocab_size)


def write_run(prefix: Path, batches: Sequence[TokenizedDocuments], dtype: TokenType) -> int:
    """Sort documents and write them as one run; return its checksum.

    The sort is stable.

    Args:
        prefix: Path of the files without suffix; the folder must exist.
        batches: The documents.
        dtype: Type of the tokens.

    Raises:
        OSError: If writing fails.
    """
    lengths = np.concatenate([batch.lengths for batch in batches])
    groups = np.concatenate([batch.groups for batch in batches])
    keys = np.concatenate([batch.keys for batch in batches])
    documents = [
        view for batch in batches for view in split_documents(batch.tokens, batch.lengths)
    ]
    order: list[int] = np.lexsort((keys, groups)).tolist()
    ids = [one.encode() for batch in batches for one in batch.ids]
    id_lengths = np.array([len(ids[p]) if ids else 0 for p in order], dtype=np.int64)
    present, starts = np.unique(groups[order], return_index=True)
    index = (
        np.array([present.size, lengths.size, bool(ids)]),
        present,
        np.append(starts, lengths.size),
        keys[order],
        _ends(lengths[order]),
        _ends(id_lengths),
    )
    tokens = (np.ascontiguousarray(documents[p], dtype=dtype).data for p in order)
    words = (array.astype("<i8" if array.dtype.kind == "i" else "<u8").data for array in index)
    checksum = _write(_tokens(prefix), tokens, 0)
    checksum = _write(_ids(prefix), (ids[p] for p in order) if ids else (), checksum)
    return _write(_index(prefix), words, checksum)


def run_checksum(prefix: Path) -> int | None:
    """Return the checksum of a run's files, None if one is missing."""
    checksum = 0
    for path in (_tokens(prefix), _ids(prefix), _index(prefix)):
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    checksum = zlib.crc32(block, checksum)
        except FileNotFoundError:
            return None
    return checksum


def _write(path: Path, parts: Iterable[bytes | memoryview], checksum: int) -> int:
    """Write a file of a run; return the updated checksum."""
    with atomic_write(path, durable=False) as file:
        for part in parts:
            file.write(part)
            checksum = zlib.crc32(part, checksum)
    return checksum


@final
class RunReader:
    """Reads a run from disk: its list of groups when opened, the rest on demand.

    Args:
        prefix: Path of the files without suffix.
        dtype: Type of the tokens.
        domains: Global index of each of its domains, ascending; None: identical.

    Attributes:
        groups: Its groups, ascending, shape ``(g,)``.
    """

    def __init__(self, prefix: Path, dtype: TokenType, *, domains: IntArray | None) -> None:
        self._prefix = prefix
        self._dtype = dtype
        words = np.memmap(_index(prefix), dtype="<i8", mode="r")
        g, n, has_ids = (int(number) for number in words[:3])
        cuts = np.cumsum((3, g, g + 1, n, n + 1, n + 1)).tolist()
        self._has_ids = bool(has_ids)
        self.groups: IntArray = words[cuts[0] : cuts[1]]
        if domains is not None:
            splits, numbers = divide_groups(self.groups)
            self.groups = group_numbers(splits, domains[numbers])
        self._starts: IntArray = words[cuts[1] : cuts[2]]
        self._keys: KeyArray = words[cuts[2] : cuts[3]].view("<u8")
        self._ends: IntArray = words[cuts[3] : cuts[4]]
        self._id_ends: IntArray = words[cuts[4] : cuts[5]]

    @property
    def num_documents(self) -> IntArray:
        """Number of documents in each of its groups, shape ``(g,)``."""
        return np.diff(self._starts)

    @property
    def num_tokens(self) -> IntArray:
        """Number of tokens in each of its groups, shape ``(g,)``."""
        return np.diff(self._ends[self._starts])

    def between(self, first: SortPosition, last: SortPosition) -> TokenizedDocuments:
        """Return the documents between two positions, in order."""
        begin, end = self._position(first), self._position(last)
        ends = np.array(self._ends[begin : end + 1])
        lengths = np.diff(ends)
        size = int(ends[-1] - ends[0])
        tokens = np.fromfile(
            _tokens(self._prefix), self._dtype, size, offset=int(ends[0]) * self._dtype.itemsize
        )
        places = np.searchsorted(self._starts, np.arange(begin, end), side="right") - 1
        keys = np.array(self._keys[begin:end])
        return TokenizedDocuments(
            tokens, lengths, self.groups[places], keys, self._read_ids(begin, end)
        )

    def _position(self, point: SortPosition) -> int:
        """Return the number of documents before a position."""
        group = (point.split << SPLIT_SHIFT) + point.domain
        place = int(np.searchsorted(self.groups, group))
        begin = int(self._starts[place])
        if place == self.groups.size or self.groups[place] != group:
            return begin
        keys = self._keys[begin : self._starts[place + 1]]
        return begin + int(np.searchsorted(keys, np.uint64(point.key)))

    def _read_ids(self, begin: int, end: int) -> list[str]:
        ends = np.array(self._id_ends[begin : end + 1])
        if not self._has_ids:
            return []
        with _ids(self._prefix).open("rb") as file:
            file.seek(ends[0])
            content = file.read(ends[-1] - ends[0])
        ends -= ends[0]
        return [content[a:b].decode() for a, b in pairwise(ends.tolist())]


def group_numbers(splits: IntArray, domains: IntArray) -> IntArray:
    """Return group numbers, ordered by split, then by domain; domains are below 2^32."""
    return (splits << SPLIT_SHIFT) + domains


def divide_groups(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Return the splits and domains of group numbers."""
    splits = groups >> SPLIT_SHIFT
    return splits, groups - (splits << SPLIT_SHIFT)


def split_documents(tokens: TokenArray, lengths: IntArray) -> list[TokenArray]:
    """Return each document's tokens, as views."""
    ends = np.cumsum(lengths).tolist()
    return [tokens[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)]


def _ends(lengths: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(lengths)))


def _tokens(prefix: Path) -> Path:
    return prefix.with_suffix(".tokens")


def _index(prefix: Path) -> Path:
    return prefix.with_suffix(".index")


def _ids(prefix: Path) -> Path:
    return prefix.with_suffix(".ids")
