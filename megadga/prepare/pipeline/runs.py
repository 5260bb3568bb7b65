"""Sorted runs: what tokenizing leaves for merging. Knows tokens and keys, neither text nor shards.

A run is some documents in the order of (group, key). A group is one split of one domain, numbered
by both, and a key is random, so that any range of that order is one piece of the file, and a fair
sample of its group. ``NAME.tokens`` has their
tokens, one after the other; ``NAME.index`` has, little-endian, all of 64 bits:

    g groups, n documents, 1 with ids  (3,)
    groups    which ones there are     (g,)      rising
    starts    first document of each   (g + 1,)
    keys      of each document         (n,)
    ends      of the document before   (n + 1,)  in tokens
    id ends   of the document before   (n + 1,)  in bytes of ``NAME.ids``

``NAME.ids`` has the documents' ids, if they have any. Runs are read by the program that wrote
them. They are not flushed to the disk: whoever goes on with runs of an earlier program compares
their checksums first.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.sampling.addresses import KeyArray
from megadga.shards.files import written_whole
from megadga.shards.indexed import TokenType

SPLIT_SHIFT = 32
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class Documents:
    """Some documents with their place in the order.

    Attributes:
        tokens: Of all documents, one after the other, each ended by EOD.
        lengths: Tokens of each, at least 1, shape ``(n,)``.
        groups: Group of each, shape ``(n,)``.
        keys: Key of each, shape ``(n,)``.
        ids: Where it came from, of each; empty if there are no ids.
    """

    tokens: TokenArray
    lengths: IntArray
    groups: IntArray
    keys: KeyArray
    ids: Sequence[str]

    def without(self, groups: IntArray) -> "Documents":
        """Return them but for those of some groups."""
        kept = ~np.isin(self.groups, groups)
        return Documents(
            tokens=self.tokens[np.repeat(kept, self.lengths)],
            lengths=self.lengths[kept],
            groups=self.groups[kept],
            keys=self.keys[kept],
            ids=[one for one, keep in zip(self.ids, kept, strict=True) if keep]
            if self.ids
            else (),
        )


@dataclass(frozen=True, slots=True)
class Point:
    """A place between documents in the order of a run.

    Attributes:
        split: What follows is of this split or a later one,
        domain: there of this domain or a later one,
        key: and there with this key or a larger one, in [0, 2^64).
    """

    split: int
    domain: int
    key: int = 0


def write_run(prefix: Path, batches: Sequence[Documents], dtype: TokenType) -> int:
    """Sort documents and write them as one run; return its checksum.

    Equal places keep the order in which they come.

    Args:
        prefix: Path of the files without their suffixes; the folder must exist.
        batches: The documents.
        dtype: Type of the tokens.

    Raises:
        OSError: If the disk refuses.
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
    """Return the checksum of a run as it is on the disk; None: it is not all there."""
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
    """Write a file of a run; return the checksum of it and what came before it."""
    with written_whole(path, durable=False) as file:
        for part in parts:
            file.write(part)
            checksum = zlib.crc32(part, checksum)
    return checksum


@final
class Run:
    """A run on the disk. Opening it reads its list of groups; the rest is read where needed.

    Args:
        prefix: Path of the files without their suffixes.
        dtype: Type of the tokens.
        domains: The numbers to give its domains, rising; None: as they are.

    Attributes:
        groups: Its groups, rising, shape ``(g,)``.
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
        """Documents of each of its groups, shape ``(g,)``."""
        return np.diff(self._starts)

    @property
    def num_tokens(self) -> IntArray:
        """Tokens of each of its groups, shape ``(g,)``."""
        return np.diff(self._ends[self._starts])

    def between(self, first: Point, last: Point) -> Documents:
        """Return the documents from one point to another, in order."""
        begin, end = self._position(first), self._position(last)
        ends = np.array(self._ends[begin : end + 1])
        lengths = np.diff(ends)
        size = int(ends[-1] - ends[0])
        tokens = np.fromfile(
            _tokens(self._prefix), self._dtype, size, offset=int(ends[0]) * self._dtype.itemsize
        )
        places = np.searchsorted(self._starts, np.arange(begin, end), side="right") - 1
        keys = np.array(self._keys[begin:end])
        return Documents(tokens, lengths, self.groups[places], keys, self._read_ids(begin, end))

    def _position(self, point: Point) -> int:
        """Return how many documents come before a point."""
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
    """Return the groups of splits of domains: ordered by split first; domains below 2^32."""
    return (splits << SPLIT_SHIFT) + domains


def divide_groups(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Return the splits and the domains of groups."""
    splits = groups >> SPLIT_SHIFT
    return splits, groups - (splits << SPLIT_SHIFT)


def split_documents(tokens: TokenArray, lengths: IntArray) -> list[TokenArray]:
    """Return each document's tokens, as views of all of them."""
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
