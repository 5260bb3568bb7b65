"""A sequence of shards, read as one token stream."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.indexed import IndexedShard, tokens_path
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ShardError

MAX_TOKENS_PER_READ = 1 << 27
"""Limit per read: one read() call returns at most 2 GiB."""


@final
class TokenStream:
    """The concatenation of shards, read by position, without an index, memory map or cache.

    Args:
        folder: Folder of the shards.
        shards: In stream order; may be empty.
        tokenizer: Tokenizer that produced the tokens.

    Attributes:
        folder: As given.
        tokenizer: As given.
        num_documents: Number of documents.
        num_tokens: Number of tokens.
    """

    def __init__(
        self, folder: Path, shards: Sequence[IndexedShard], tokenizer: TokenizerIdentity
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.num_documents = sum(shard.num_documents for shard in shards)
        self._shards = tuple(shards)
        # Position at which each shard starts, and the end: shape (number of shards + 1,).
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in shards)], dtype=np.int64)
        self.num_tokens = int(self._starts[-1])

    def gather(self, starts: IntArray, count: int) -> IntArray:
        """Return ``count`` consecutive tokens from each start position.

        Each shard involved is opened once, plus once for every row that crosses into the next.

        Args:
            starts: In ``[0, num_tokens - count]``, in any order, shape ``(n,)``.
            count: Tokens per row, at least 1.

        Returns:
            Token ids, shape ``(n, count)``.

        Raises:
            IndexError: If a row is not inside the stream.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or was
                changed.
        """
        # Sorted, so that shards are visited one after the other and read forwards.
        order: IntArray = starts.argsort(kind="stable")
        ordered: IntArray = starts[order]
        if starts.size and not 0 <= ordered[0] <= ordered[-1] <= self.num_tokens - count:
            raise IndexError(
                f"{self.folder}: expected {count} tokens from positions in "
                f"[0, {self.num_tokens - count}], found {ordered[0]} to {ordered[-1]}"
            )
        rows = np.empty((starts.size, count), dtype=np.int64)
        used: set[int] = set()
        low = 0
        while low < starts.size:
            shard = self._shard_at(ordered[low])
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            beyond = int(ordered.searchsorted(end))
            high = max(low, int(ordered[:beyond].searchsorted(end - count, side="right")))
            if low < high:
                tokens = self._shards[shard].read(ordered[low:high] - begin, count)
                rows[order[low:high]] = tokens
            for index in range(high, beyond):  # rows that cross into the next shard
                start = int(ordered[index])
                rows[order[index]] = np.concatenate(list(self._pieces(start, start + count)))
                used.update(range(shard, self._shard_at(start + count - 1) + 1))
            used.add(shard)
            low = beyond
        self._check_ids(rows, starts)
        for shard in used:
            self._shards[shard].check_unchanged()
        return rows

    def tokens(self, start: int, stop: int) -> TokenArray:
        """Return the tokens in ``[start, stop)``, shape ``(stop - start,)``, as they are stored.

        Raises:
            IndexError: If the range is not inside the stream.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(
                f"{self.folder}: expected 0 <= start <= stop <= {self.num_tokens}, "
                f"found {start} and {stop}"
            )
        pieces = list(self._pieces(start, stop))
        tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
        self._check_ids(tokens[None], np.array([start]))
        return tokens

    def locate(self, start: int, stop: int) -> Iterator[tuple[IndexedShard, int, int]]:
        """Yield the shards that hold ``[start, stop)``, with the range of tokens in each."""
        shard = self._shard_at(start)
        while start < stop:
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            if start < (high := min(stop, end)):  # false for an empty shard
                yield self._shards[shard], start - begin, high - begin
            start, shard = high, shard + 1

    def _pieces(self, start: int, stop: int) -> Iterator[TokenArray]:
        """Yield the tokens of ``[start, stop)`` shard by shard, in order."""
        shard = self._shard_at(start)
        while start < stop:
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            high = min(stop, end, start + MAX_TOKENS_PER_READ)
            if start < high:  # false for an empty shard
                yield self._shards[shard].read(np.array([start - begin]), high - start)[0]
            start = high
            if start == end:
                shard += 1

    def _shard_at(self, position: int) -> int:
        """Return the index of the shard that holds a position."""
        return int(self._starts.searchsorted(position, side="right")) - 1

    def _check_ids(self, rows: TokenArray, starts: IntArray) -> None:
        """Raise for the first id outside the vocabulary, naming its file and offset."""
        size = self.tokenizer.vocab_size
        if not rows.size or (rows.min() >= 0 and rows.max() < size):
            return
        row, column = np.argwhere((rows < 0) | (rows >= size))[0]
        position = int(starts[row]) + int(column)
        shard = self._shard_at(position)
        raise ShardError(
            f"{tokens_path(self._shards[shard].prefix)}: token {position - self._starts[shard]}: "
            f"expected an id in [0, {size}), found {rows[row, column]}"
        )
