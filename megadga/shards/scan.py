"""Reads a whole shard, to measure it and to see what opening it cannot. Knows no manifest's file.

In memory is a bounded part of it, however large it is.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.shards.documents import CHUNK_TOKENS, check_index, read_tokens, token_bounds
from megadga.shards.files import checksum
from megadga.shards.ids import check_ids
from megadga.shards.indexed import IndexedShard, ids_path, index_path, tokens_path
from megadga.shards.manifest import ShardEntry, TokenizerIdentity
from megadga.shards.problems import Problems


@dataclass(frozen=True, slots=True)
class ShardScan:
    """What reading a shard has shown.

    Attributes:
        problems: Everything that is wrong with it, a line each.
        entry: What a manifest must say of it; None: it cannot be read to the end.
        without_eod: Documents that do not end in EOD; 0 if it is not known where they end.
    """

    problems: tuple[str, ...]
    entry: ShardEntry | None = None
    without_eod: int = 0


def scan_shard(
    prefix: Path,
    tokenizer: TokenizerIdentity,
    *,
    ids: bool,
    progress: Callable[[int], object] = lambda _: None,
) -> ShardScan:
    """Read every byte of a shard.

    Checked are its header and sizes, the places of sentences, the bounds of documents, every
    token's id and, if it has any, the documents' ids.

    Args:
        prefix: Path of its files without their suffixes.
        tokenizer: What wrote the tokens, or may have.
        ids: Whether it has an ``.ids``.
        progress: Called with the bytes of tokens that have been read since the last call.
    """
    problems = Problems()
    try:
        shard = IndexedShard.open(prefix)
        sound = check_index(shard, problems)
        tokens = _Tokens(shard, tokenizer, problems)
        for bounds in token_bounds(shard) if sound else _without_ends(shard):
            tokens.read(bounds, progress)
        if ids:
            check_ids(ids_path(prefix), shard.num_documents, problems)
        entry = ShardEntry(
            file=prefix.name,
            documents=shard.num_documents,
            tokens=shard.num_tokens,
            max_token=tokens.largest,
            bin_sha256=tokens.checksum.hexdigest(),
            idx_sha256=checksum(index_path(prefix)),
            ids_sha256=checksum(ids_path(prefix)) if ids else None,
        )
    except ShardError as error:
        problems.add(str(error))
        return ShardScan(problems.lines)
    except OSError as error:
        problems.add(f"{prefix}: expected a readable shard, found {error}")
        return ShardScan(problems.lines)
    return ShardScan(problems.lines, entry, tokens.without_eod if sound else 0)


def _without_ends(shard: IndexedShard) -> Iterator[IntArray]:
    """Yield all tokens as if they were one document."""
    yield np.array([0, shard.num_tokens])


class _Tokens:
    """What is learnt while reading a shard's tokens from the first to the last."""

    def __init__(
        self, shard: IndexedShard, tokenizer: TokenizerIdentity, problems: Problems
    ) -> None:
        self.largest = -1
        self.without_eod = 0
        self.checksum = hashlib.sha256()
        self._shard = shard
        self._tokenizer = tokenizer
        self._problems = problems

    def read(self, bounds: IntArray, progress: Callable[[int], object]) -> None:
        """Read the documents between consecutive bounds, shape ``(n + 1,)``."""
        ends = bounds[1:][np.diff(bounds) > 0]
        for start in range(int(bounds[0]), int(bounds[-1]), CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, int(bounds[-1]))
            tokens = read_tokens(self._shard, start, stop)
            self.checksum.update(tokens.data)
            self.largest = max(self.largest, int(tokens.max()))
            wrong = np.flatnonzero((tokens < 0) | (tokens >= self._tokenizer.vocab_size))
            self._problems.add_all(
                tokens_path(self._shard.prefix),
                "ids out of range",
                wrong,
                lambda at, start=start, tokens=tokens: (
                    f"token {start + at}: expected an id in [0, {self._tokenizer.vocab_size}), "
                    f"found {tokens[at]}"
                ),
            )
            first, last = np.searchsorted(ends, (start, stop), side="right")
            at_ends = tokens[ends[first:last] - 1 - start]
            self.without_eod += int(np.count_nonzero(at_ends != self._tokenizer.eod))
            progress(tokens.nbytes)
