"""What documents were worth: values of sequences, shared over the documents that they span.

The gradient of a sequence is the mean over its targets. Which of them made its value is not in the
trace, so that each has the same part: a document's part of a sequence is the share of the
sequence's targets that are its tokens. Values of documents add up to those of the sequences.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.documents import iterate_ids
from megadga.data.domain import Domain
from megadga.data.indexed import ids_path
from megadga.data.stream import TokenStream
from megadga.errors import ShardError
from megadga.value.recursion import SequenceValues


@final
@dataclass(frozen=True)
class ValuedDocument:
    """A document with its value.

    Attributes:
        domain: Its domain.
        shard: Path of its shard without ``.bin`` and ``.idx``.
        document: Its number in the shard, from 0.
        id: Of its source record; None where shards carry none.
        value: Nats a token that the target's loss would be higher without it.
        tokens: Targets that were trained, each as often as it was.
        sequences: Sequences that they were in.
    """

    domain: str
    shard: Path
    document: int
    id: str | None
    value: float
    tokens: int
    sequences: int

    def as_json(self) -> dict[str, Any]:
        """Return its line of the file; without the key `id` where there is none."""
        values = {**vars(self), "shard": str(self.shard)}
        return values if self.id is not None else {k: v for k, v in values.items() if k != "id"}


@final
@dataclass(frozen=True, eq=False)
class DocumentShares:
    """What the documents of a stream have of some sequences; arrays of shape ``(n,)``.

    Attributes:
        documents: Numbers of the documents that have a target, ascending.
        values: Sums of their parts of the sequences' values.
        tokens: Targets that are theirs.
        sequences: Sequences with a target that is theirs.
        domains: Domain of each.
    """

    documents: IntArray
    values: FloatArray
    tokens: IntArray
    sequences: IntArray
    domains: IntArray


def share_by_targets(
    values: FloatArray,
    domains: IntArray,
    positions: IntArray,
    starts: IntArray,
    *,
    sequence_length: int,
) -> DocumentShares:
    """Share the values of sequences over documents, by the targets that each has in them.

    Args:
        values: Of each sequence, shape ``(n,)``.
        domains: Domain of each; that of a document is the same in all its sequences, same shape.
        positions: Position of each one's first token in the stream; its targets are the
            ``sequence_length`` tokens after it, same shape.
        starts: First position of each document of the stream, then the end, ascending.
        sequence_length: Targets of a sequence (S).
    """
    begins = positions + 1
    ends = begins + sequence_length
    firsts = np.searchsorted(starts, begins, side="right") - 1
    counts = np.searchsorted(starts, ends, side="left") - firsts
    sequences = np.repeat(np.arange(values.size), counts)
    places = np.arange(sequences.size) - np.repeat(np.cumsum(counts) - counts, counts)
    documents = firsts[sequences] + places
    tokens = np.minimum(ends[sequences], starts[documents + 1])
    tokens = tokens - np.maximum(begins[sequences], starts[documents])
    kept = tokens > 0  # an empty document has none
    sequences, documents, tokens = sequences[kept], documents[kept], tokens[kept]
    found, first_rows, rows = np.unique(documents, return_index=True, return_inverse=True)
    parts = values[sequences] * tokens / sequence_length
    return DocumentShares(
        documents=found,
        values=np.bincount(rows, weights=parts, minlength=found.size).astype(np.float64),
        tokens=np.bincount(rows, weights=tokens, minlength=found.size).astype(np.int64),
        sequences=np.bincount(rows, minlength=found.size),
        domains=domains[sequences[first_rows]],
    )


def value_documents(
    found: SequenceValues, domains: Sequence[Domain]
) -> tuple[ValuedDocument, ...]:
    """Return all documents that a run has trained on, by value, the largest first.

    Args:
        found: What its sequences were worth.
        domains: Those that it was trained on, in the trace's order.

    Raises:
        ShardError: If an index or a file of ids is missing or damaged.
    """
    streams: dict[int, TokenStream] = {id(each.stream): each.stream for each in domains}
    stream_of = np.array([list(streams).index(id(each.stream)) for each in domains])
    values, indices = found.values.ravel(), found.domains.ravel()
    windows = found.windows.ravel()
    documents: list[ValuedDocument] = []
    for number, stream in enumerate(streams.values()):
        rows = np.flatnonzero(stream_of[indices] == number)
        if rows.size:
            documents += _of_stream(stream, domains, values[rows], indices[rows], windows[rows])
    return tuple(sorted(documents, key=lambda each: -each.value))


def _of_stream(
    stream: TokenStream,
    domains: Sequence[Domain],
    values: FloatArray,
    indices: IntArray,
    windows: IntArray,
) -> Iterator[ValuedDocument]:
    """Yield the documents of a stream, in its order."""
    positions = np.empty_like(windows)
    for index in np.unique(indices).tolist():
        rows = np.flatnonzero(indices == index)
        positions[rows] = domains[index].positions(windows[rows])
    shards = list(stream.locate(0, stream.num_tokens))
    # Of each shard without the end, which is the first document of the next one.
    starts = [shard.document_starts[:-1] for shard, _, _ in shards]
    before = np.cumsum([0, *(shard.num_tokens for shard, _, _ in shards)])
    numbers = np.cumsum([0, *(each.size for each in starts)])
    all_starts = np.concatenate(
        [*(each + begin for each, begin in zip(starts, before, strict=False)), before[-1:]]
    )
    length = domains[int(indices[0])].sequence_length
    shared = share_by_targets(values, indices, positions, all_starts, sequence_length=length)
    shard_of = np.searchsorted(numbers, shared.documents, side="right") - 1
    for shard_number, (shard, _, _) in enumerate(shards):
        rows = np.flatnonzero(shard_of == shard_number)
        places = shared.documents[rows] - numbers[shard_number]
        ids = _ids(shard.prefix, places)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            yield ValuedDocument(
                domain=domains[int(shared.domains[row])].name,
                shard=shard.prefix,
                document=place,
                id=ids.get(place),
                value=float(shared.values[row]),
                tokens=int(shared.tokens[row]),
                sequences=int(shared.sequences[row]),
            )


def _ids(prefix: Path, documents: IntArray) -> Mapping[int, str]:
    """Return the ids of some documents of a shard, in ascending order; empty if it has none."""
    path = ids_path(prefix)
    if not documents.size or not path.exists():
        return {}
    wanted = set(documents.tolist())
    found = {place: each for place, each in enumerate(iterate_ids(path)) if place in wanted}
    if len(found) < len(wanted):
        raise ShardError(f"{path}: expected more than {documents[-1]} ids, one a document")
    return found


def encode_documents(documents: Sequence[ValuedDocument]) -> bytes:
    """Return documents as JSON lines."""
    lines = (json.dumps(each.as_json(), ensure_ascii=False) for each in documents)
    return "".join(f"{line}\n" for line in lines).encode()
