"""Iterates over the documents of a shard and their ids, and checks its index."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray, TokenArray
from megadga.data.files import Problems
from megadga.data.indexed import HEADER, IndexedShard, ids_path, index_path
from megadga.errors import ShardError


def iterate_ids(path: Path) -> Iterator[str]:
    """Yield the ids of a shard's documents, in order.

    Raises:
        ShardError: If the file cannot be read or a line is invalid; names file and line.
    """
    for number, line in _lines(path):
        try:
            yield _parse(line)
        except ValueError as error:
            raise ShardError(f"{path}: line {number}: {error}") from error


def check_ids(path: Path, num_documents: int, problems: Problems) -> None:
    """Check that a file has one id for each document of its shard.

    Args:
        path: The ``.ids``.
        num_documents: Number of documents in the shard.
        problems: Collects the problems found.

    Raises:
        ShardError: If the file cannot be read.
    """
    number = 0
    for number, line in _lines(path):
        try:
            _parse(line)
        except ValueError as error:
            message = str(error)
            problems.add_all(
                path, "bad lines", np.array([number]), lambda at, why=message: f"line {at}: {why}"
            )
    if number != num_documents:
        problems.add(f"{path}: expected {num_documents} ids, one per document, found {number}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)  # binary mode: only "\n" ends a line
    except OSError as error:
        raise ShardError(f"{path}: expected documents' ids, found {error.strerror}") from error


def _parse(line: bytes) -> str:
    """Return the id in a line; raise ``ValueError`` if the line is invalid."""
    try:
        content: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON string, found {error}") from error
    if not isinstance(content, str):
        raise ValueError(f"expected a JSON string, found {type(content).__name__}")  # noqa: TRY004
    if not line.endswith(b"\n"):
        raise ValueError("expected a whole line, found no end of it")
    return content


CHUNK_ENTRIES = 1 << 16
"""Sentences or documents of an index that are read at once."""


CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class DocumentBatch:
    """Consecutive documents of a shard.

    Attributes:
        tokens: Concatenated tokens, shape ``(lengths.sum(),)``.
        lengths: Tokens per document, shape ``(n,)``, ``n >= 1``.
        ids: Ids of the source records; empty if unknown or not requested.
    """

    tokens: TokenArray
    lengths: IntArray
    ids: tuple[str, ...] = ()

    def part(self, first: int, last: int) -> "DocumentBatch":
        """Return the documents in ``[first, last)``, as views."""
        ends = np.concatenate(([0], np.cumsum(self.lengths)))
        tokens = self.tokens[ends[first] : ends[last]]
        return DocumentBatch(tokens, self.lengths[first:last], self.ids[first:last])


def read_documents(shard: IndexedShard, *, ids: bool) -> Iterator[DocumentBatch]:
    """Yield all documents of a shard in order, in batches.

    Args:
        shard: A shard whose index has passed ``check_index``.
        ids: Whether to read the documents' ids as well.

    Raises:
        ShardError: If a file is missing or was truncated since the shard was opened, or there is
            not one id for each document.
    """
    path = ids_path(shard.prefix)
    remaining = iterate_ids(path) if ids else iter(())
    read = 0
    for bounds in token_bounds(shard):
        for first, last in _batches(bounds):
            found = tuple(islice(remaining, last - first))
            read += len(found)
            if ids and len(found) != last - first:
                raise ShardError(f"{path}: expected {shard.num_documents} ids, found {read}")
            tokens = read_tokens(shard, int(bounds[first]), int(bounds[last]))
            yield DocumentBatch(tokens, np.diff(bounds[first : last + 1]), found)
    if next(remaining, None) is not None:
        raise ShardError(f"{path}: expected {shard.num_documents} ids, found more")


def document_at(shard: IndexedShard, index: int) -> TokenArray:
    """Return the tokens of one document; reads the index up to it.

    Args:
        shard: A shard whose index has passed ``check_index``.
        index: In ``[0, num_documents)``.

    Raises:
        ShardError: If a file is missing or was truncated since the shard was opened.
    """
    bounds = next(islice(token_bounds(shard), index // CHUNK_ENTRIES, None))
    start, stop = bounds[index % CHUNK_ENTRIES :][:2].tolist()
    return read_tokens(shard, start, stop)


def read_tokens(shard: IndexedShard, start: int, stop: int) -> TokenArray:
    """Return the tokens in ``[start, stop)`` of a shard.

    Raises:
        ShardError: If the ``.bin`` is missing or was truncated since the shard was opened.
    """
    cuts = [*range(start, stop, CHUNK_TOKENS), stop]
    parts = [shard.read(np.array([low]), high - low)[0] for low, high in pairwise(cuts)]
    match parts:
        case []:
            return np.empty(0, dtype=shard.dtype)
        case [whole]:
            return whole
        case _:
            return np.concatenate(parts)


def token_bounds(shard: IndexedShard) -> Iterator[IntArray]:
    """Yield the token positions of document boundaries in arrays.

    The last position of an array equals the first of the next one, so that each array covers
    complete documents: ``CHUNK_ENTRIES`` of them, fewer in the last. A shard without documents
    yields nothing.

    Args:
        shard: A shard whose index has passed ``check_index``.

    Raises:
        ShardError: If the ``.idx`` is missing or was truncated since the shard was opened.
    """
    first, ends = 0, np.zeros(1, dtype=np.int64)  # starts of sentences first, first + 1, ...
    for start, count in _chunks(shard.num_documents):
        bounds = _read_bounds(shard, start, count + 1)
        positions = np.empty_like(bounds)
        done = 0
        while True:
            known = first + ends.size - 1
            stop = int(np.searchsorted(bounds, known, side="right"))
            positions[done:stop] = ends[bounds[done:stop] - first]
            if stop == bounds.size:
                break
            first, done = known, stop
            lengths = _read_lengths(shard, first, min(CHUNK_ENTRIES, shard.num_sentences - first))
            ends = np.concatenate((ends[-1:], ends[-1] + np.cumsum(lengths, dtype=np.int64)))
        yield positions


def check_index(shard: IndexedShard, problems: Problems) -> bool:
    """Check that sentences are contiguous and document bounds are valid.

    Args:
        shard: The shard.
        problems: Collects the problems found.

    Raises:
        ShardError: If the ``.idx`` is missing or was truncated since the shard was opened.
    """
    found = [*_sentences_sound(shard, problems), *_bounds_sound(shard, problems)]
    return all(found)


def _sentences_sound(shard: IndexedShard, problems: Problems) -> Iterator[bool]:
    path = index_path(shard.prefix)
    # Expected start of the next sentence: from the sum of lengths, and from the previous sentence.
    # In arrays, which overflow without a warning: the values come from an untrusted file.
    total = after = np.zeros(1, dtype=np.int64)
    for start, count in _chunks(shard.num_sentences):
        lengths = _read_lengths(shard, start, count).astype(np.int64)
        pointers = _read(shard, "<i8", HEADER.size + 4 * shard.num_sentences, start, count)
        sizes = lengths * shard.dtype.itemsize
        ends = total + np.cumsum(sizes)
        expected = ends - sizes
        neighbours = np.concatenate((after, (pointers + sizes)[:-1]))
        # A wrong length shifts all later starts, a wrong offset only the next one: report only the
        # sentences that contradict both expectations.
        wrong = ((pointers != expected) & (pointers != neighbours)) | (lengths < 0)
        problems.add_all(
            path,
            "sentences at wrong offsets",
            np.flatnonzero(wrong),
            lambda at, start=start, expected=expected, pointers=pointers, lengths=lengths: (
                f"sentence {start + at}: expected byte offset {expected[at]} and a length >= 0, "
                f"found {pointers[at]} and {lengths[at]}"
            ),
        )
        yield not wrong.any()
        total, after = ends[-1:], (pointers + sizes)[-1:]


def _bounds_sound(shard: IndexedShard, problems: Problems) -> Iterator[bool]:
    path = index_path(shard.prefix)
    highest = 0
    for start, count in _chunks(shard.num_documents + 1):
        bounds = _read_bounds(shard, start, count)
        high = np.full(count, shard.num_sentences)
        sane = np.where(bounds > high, 0, bounds)  # an excessive bound must not affect the others
        low = np.maximum(np.maximum.accumulate(np.concatenate(([highest], sane[:-1]))), 0)
        highest = max(int(low[-1]), int(sane[-1]))
        if start == 0:
            high[0] = 0
        if start + count > shard.num_documents:
            low[-1] = shard.num_sentences
        wrong = (bounds < low) | (bounds > high)
        problems.add_all(
            path,
            "document bounds out of order",
            np.flatnonzero(wrong),
            lambda at, start=start, low=low, high=high, bounds=bounds: (
                f"document bound {start + at}: expected a sentence in [{low[at]}, {high[at]}], "
                f"found {bounds[at]}"
            ),
        )
        yield not wrong.any()


def _batches(bounds: IntArray) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents with at most ``CHUNK_TOKENS`` tokens, or of one document."""
    first, count = 0, bounds.size - 1
    while first < count:
        limit = int(bounds[first]) + CHUNK_TOKENS
        last = max(int(np.searchsorted(bounds, limit, side="right")) - 1, first + 1)
        yield first, last
        first = last


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the size of each chunk of entries."""
    for start in range(0, count, CHUNK_ENTRIES):
        yield start, min(CHUNK_ENTRIES, count - start)


def _read_lengths(shard: IndexedShard, start: int, count: int) -> NDArray[np.int32]:
    return _read(shard, "<i4", HEADER.size, start, count)


def _read_bounds(shard: IndexedShard, start: int, count: int) -> IntArray:
    return _read(shard, "<i8", HEADER.size + 12 * shard.num_sentences, start, count)


def _read(shard: IndexedShard, dtype: str, begin: int, start: int, count: int) -> NDArray[Any]:
    """Return ``count`` entries from index ``start`` of the table at byte offset ``begin``."""
    path = index_path(shard.prefix)
    offset = begin + start * np.dtype(dtype).itemsize
    try:
        entries = np.fromfile(path, dtype=dtype, count=count, offset=offset)
    except OSError as error:
        raise ShardError(f"{path}: expected a shard's index, found {error.strerror}") from error
    if entries.size != count:
        raise ShardError(f"{path}: expected {count} entries at {offset}, found {entries.size}")
    return entries
