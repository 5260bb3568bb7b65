"""A domain: many shards read as one stream of tokens. Knows neither folders nor sampling."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.shards.indexed import IndexedShard, tokens_path
from megadga.shards.manifest import TokenizerIdentity


class Domain:
    """Windows of ``S + 1`` tokens, by arithmetic, over the shards of one split of one domain.

    Window ``j`` is tokens ``[jS, jS + S]`` of the shards' concatenation: neighbours share one
    token, the last target of one and the first input of the next. Nothing is indexed or cached.

    Args:
        name: What metrics and weights call the domain.
        folder: Where its shards lie.
        shards: In the order of the stream; they must hold at least ``S + 1`` tokens together.
        tokenizer: What wrote the tokens.
        sequence_length: S, at least 1.

    Raises:
        ValueError: If ``sequence_length`` is below 1 or not even one window fits.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        shards: Sequence[IndexedShard],
        tokenizer: TokenizerIdentity,
        *,
        sequence_length: int,
    ) -> None:
        self.name = name
        self.folder = folder
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self._shards = tuple(shards)
        # Stream position at which each shard starts, and the end: shape (number of shards + 1,).
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in shards)], dtype=np.int64)
        if sequence_length < 1 or self.num_sequences < 1:
            raise ValueError(
                f"{name}: expected at least {sequence_length + 1} >= 2 tokens, "
                f"found {self.num_tokens}"
            )

    @property
    def num_documents(self) -> int:
        """Documents in the stream."""
        return sum(shard.num_documents for shard in self._shards)

    @property
    def num_tokens(self) -> int:
        """Tokens in the stream."""
        return int(self._starts[-1])

    @property
    def num_sequences(self) -> int:
        """Windows: ``(num_tokens - 1) // S``; up to ``S`` tokens at the end are in none."""
        return (self.num_tokens - 1) // self.sequence_length

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some windows.

        Args:
            indices: Windows in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is gone or cut.
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_sequences:
            raise IndexError(
                f"{self.name}: expected windows in [0, {self.num_sequences}), "
                f"found {indices.min()} to {indices.max()}"
            )
        windows = self._gather(indices * self.sequence_length)
        wrong = (windows < 0) | (windows >= self.tokenizer.vocab_size)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            self._refuse(
                position=int(indices[row]) * self.sequence_length + int(column),
                token=int(windows[row, column]),
            )
        return windows

    def _gather(self, starts: IntArray) -> IntArray:
        """Return ``S + 1`` tokens from each of these stream positions."""
        width = self.sequence_length + 1
        windows = np.empty((starts.size, width), dtype=np.int64)
        first = self._shard_at(starts)
        last = self._shard_at(starts + self.sequence_length)
        whole = first == last
        for shard in np.unique(first[whole]):
            rows = np.flatnonzero(whole & (first == shard))
            offsets = starts[rows] - self._starts[shard]
            windows[rows] = self._shards[int(shard)].read(offsets, width)
        for row in np.flatnonzero(first != last):
            self._assemble(windows[row], int(starts[row]), first[row], last[row])
        return windows

    def _assemble(self, window: IntArray, start: int, first: int, last: int) -> None:
        """Fill one window that spans the shards ``first`` to ``last``."""
        stop = start + window.size
        for shard in range(first, last + 1):
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            low, high = max(start, begin), min(stop, end)
            if low < high:  # not an empty shard
                tokens = self._shards[shard].read(np.array([low - begin]), high - low)
                window[low - start : high - start] = tokens[0]

    def _shard_at(self, positions: IntArray) -> IntArray:
        """Return which shard holds each stream position; never an empty one."""
        return np.searchsorted(self._starts, positions, side="right") - 1

    def _refuse(self, *, position: int, token: int) -> None:
        shard = int(self._shard_at(np.array(position)))
        raise ShardError(
            f"{tokens_path(self._shards[shard].prefix)}: token {position - self._starts[shard]}: "
            f"expected an id in [0, {self.tokenizer.vocab_size}), found {token}"
        )
