"""Documents of a split by their number, in the order of its shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.documents import (
    CHUNK_TOKENS,
    DocumentBatch,
    check_index,
    iterate_ids,
    read_tokens,
)
from megadga.data.files import Problems
from megadga.data.folder import ShardFolder, open_shards
from megadga.data.indexed import IndexedShard, ids_path
from megadga.data.manifest import ShardEntry
from megadga.data.targets import TrainedSpans, mark_targets, spans_path
from megadga.errors import ShardError


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """A shard with its documents' bounds.

    Attributes:
        shard: The shard.
        starts: First token of each document, and the end, shape ``(documents + 1,)``.
        spans: Trained spans of its tokens; None: all are trained.
    """

    shard: IndexedShard
    starts: IntArray
    spans: TrainedSpans | None

    @classmethod
    def open(cls, shard: IndexedShard, entry: ShardEntry) -> "_Shard":
        problems = Problems()
        if not check_index(shard, problems):
            raise ShardError(problems.lines[0])
        spans = None
        if entry.spans_sha256 is not None:
            spans = TrainedSpans.read(spans_path(shard.prefix), shard.num_tokens)
        return cls(shard, shard.document_starts, spans)

    def read_run(self, first: int, last: int) -> TokenArray:
        """Return the tokens of the documents in ``[first, last)``, marked where not trained."""
        start, stop = int(self.starts[first]), int(self.starts[last])
        tokens = read_tokens(self.shard, start, stop)
        if self.spans is None:
            return tokens
        (trained,) = self.spans.trained(np.array([start]), stop - start)
        return mark_targets(tokens, trained)


@final
class NumberedDocuments:
    """The documents of one split of a folder.

    Args:
        folder: The folder, with one domain or many.
        split: The split; without shards of it there are no documents.

    Attributes:
        lengths: Tokens of each document, shape ``(documents,)``.

    Raises:
        ShardError: If a shard is missing or its index is damaged.
    """

    def __init__(self, folder: ShardFolder, split: str) -> None:
        entries = folder.manifest.splits.get(split, ())
        shards = open_shards(folder.source, folder.manifest, split) if entries else ()
        self._shards = [_Shard.open(s, e) for s, e in zip(shards, entries, strict=True)]
        sizes = [each.starts.size - 1 for each in self._shards]
        self._firsts = np.cumsum([0, *sizes], dtype=np.int64)
        self._ids: dict[Path, Sequence[str]] = {}
        none = np.zeros(0, dtype=np.int64)
        self.lengths = np.concatenate([none, *(np.diff(each.starts) for each in self._shards)])

    def read(self, numbers: IntArray, *, ids: bool = False) -> Iterator[DocumentBatch]:
        """Yield some documents, in batches of a bounded number of tokens, or of one document.

        Args:
            numbers: In ``[0, documents)``, ascending, shape ``(n,)``.
            ids: Whether to read the documents' ids as well, which a shard has to have.

        Raises:
            ShardError: If a file is missing or was truncated.
        """
        for each, low, high in zip(
            self._shards, self._firsts[:-1].tolist(), self._firsts[1:].tolist(), strict=True
        ):
            first, last = np.searchsorted(numbers, [low, high]).tolist()
            if first == last:
                continue
            names = self._read_ids(each) if ids else ()
            for batch in _batches(numbers[first:last] - low, each.starts):
                yield _read_batch(each, batch, names)

    def _read_ids(self, each: _Shard) -> Sequence[str]:
        """Return the ids of a shard's documents; those of the last shard are kept."""
        path = ids_path(each.shard.prefix)
        if path not in self._ids:
            names = list(iterate_ids(path))
            if len(names) != each.shard.num_documents:
                raise ShardError(
                    f"{path}: expected {each.shard.num_documents} ids, found {len(names)}"
                )
            self._ids = {path: names}
        return self._ids[path]


def _batches(numbers: IntArray, starts: IntArray) -> list[IntArray]:
    """Return the numbers of documents in parts of at most ``CHUNK_TOKENS``, or of one document."""
    parts: list[IntArray] = []
    ends = np.cumsum(starts[numbers + 1] - starts[numbers])
    first = 0
    while first < numbers.size:
        before = int(ends[first - 1]) if first else 0
        fitting = int(np.searchsorted(ends, before + CHUNK_TOKENS, side="right"))
        last = max(first + 1, fitting)
        parts.append(numbers[first:last])
        first = last
    return parts


def _read_batch(each: _Shard, numbers: IntArray, names: Sequence[str]) -> DocumentBatch:
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    tokens = [each.read_run(int(run[0]), int(run[-1]) + 1) for run in runs]
    lengths = each.starts[numbers + 1] - each.starts[numbers]
    places: list[int] = numbers.tolist()
    ids = tuple(names[place] for place in places) if names else ()
    return DocumentBatch(np.concatenate(tokens), lengths, ids)


def documents_of(batch: DocumentBatch) -> list[IntArray]:
    """Return the tokens of each document of a batch."""
    return np.split(batch.tokens.astype(np.int64), np.cumsum(batch.lengths)[:-1])
