"""Documents that stay apart, each in sequences of its own. Knows no sampling."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.shards.folder import DomainSource, open_shards
from megadga.shards.indexed import IndexedShard, index_path, tokens_path
from megadga.shards.manifest import TokenizerIdentity, read_manifest
from megadga.shards.sequences import PADDING


@final
class Examples:
    """Sequences of one document each, padded at their end; a ``SequenceSet``.

    A document of at most ``S + 1`` tokens is one sequence. A longer one goes on in further ones of
    ``S`` targets, the last of them padded: neighbours share one token, the last target of one and
    the first input of the next, so that every token of a document but its first is a target once.
    Where each sequence lies is kept in memory, 24 bytes for each: this is for the few examples of
    a task.

    Args:
        name: What metrics call the set.
        folder: Where its shards lie.
        shards: In order; they must hold at least one document together.
        tokenizer: What wrote the tokens.
        sequence_length: S, at least 1.

    Attributes:
        num_documents: Documents in the set.
        num_tokens: Tokens in the set.
        num_long: Documents of more than one sequence.

    Raises:
        ShardError: If a document has fewer than two tokens, and so no target, or an index is
            damaged.
        ValueError: If ``sequence_length`` is below 1 or there is no document.
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
        self.num_documents = sum(shard.num_documents for shard in shards)
        self.num_tokens = sum(shard.num_tokens for shard in shards)
        if sequence_length < 1 or self.num_documents < 1:
            raise ValueError(
                f"{name}: expected a sequence_length and documents of at least 1, "
                f"found {sequence_length} and {self.num_documents}"
            )
        self._shards = tuple(shards)
        bounds = [shard.document_starts for shard in shards]
        for shard, starts in zip(shards, bounds, strict=True):
            _check_targets(shard, starts)
        # Of each document: its shard, its first token there, its targets and its sequences.
        shard_of = np.repeat(np.arange(len(bounds)), [starts.size - 1 for starts in bounds])
        firsts = np.concatenate([starts[:-1] for starts in bounds])
        targets = np.concatenate([np.diff(starts) - 1 for starts in bounds])
        counts: IntArray = -(-targets // sequence_length)
        self.num_long = int((counts > 1).sum())

        # Of each sequence: its document, how many of that one's targets come before it, and again
        # shard, first token and targets.
        document: IntArray = np.repeat(np.arange(counts.size), counts)
        place: IntArray = np.arange(document.size) - (np.cumsum(counts) - counts)[document]
        before = place * sequence_length
        self._shard_of = shard_of[document]
        self._starts = firsts[document] + before
        self._targets: IntArray = np.minimum(targets[document] - before, sequence_length)

    @property
    def num_sequences(self) -> int:
        """Sequences: ``ceil((n - 1) / S)`` for a document of ``n`` tokens."""
        return self._starts.size

    @property
    def padding_share(self) -> float:
        """Share of the sequences' targets that is padding, in ``[0, 1)``."""
        return 1.0 - int(self._targets.sum()) / (self.num_sequences * self.sequence_length)

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences; see ``SequenceSet``."""
        self._check_range(indices)
        windows = np.full((indices.size, self.sequence_length + 1), PADDING, dtype=np.int64)
        sources = np.stack([self._shard_of[indices], self._targets[indices]], axis=1)
        kinds, kind_of = np.unique(sources, axis=0, return_inverse=True)
        for kind in range(len(kinds)):  # of one shard and one length, to be read in one go
            rows = np.flatnonzero(kind_of.ravel() == kind)
            starts = self._starts[indices[rows]]
            shard, width = self._shards[int(kinds[kind, 0])], int(kinds[kind, 1]) + 1
            tokens = shard.read(starts, width).astype(np.int64)
            self._check_ids(shard, starts, tokens)
            windows[rows, :width] = tokens
        for index in np.unique(kinds[:, 0]).tolist():
            self._shards[index].check_unchanged()
        return windows

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return how many targets of some sequences are tokens; see ``SequenceSet``."""
        self._check_range(indices)
        return self._targets[indices]

    def _check_range(self, indices: IntArray) -> None:
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_sequences:
            raise IndexError(
                f"{self.name}: expected sequences in [0, {self.num_sequences}), "
                f"found {indices.min()} to {indices.max()}"
            )

    def _check_ids(self, shard: IndexedShard, starts: IntArray, tokens: IntArray) -> None:
        wrong = np.argwhere((tokens < 0) | (tokens >= self.tokenizer.vocab_size))
        if wrong.size:
            row, column = wrong[0]
            raise ShardError(
                f"{tokens_path(shard.prefix)}: token {starts[row] + column}: expected an id in "
                f"[0, {self.tokenizer.vocab_size}), found {tokens[row, column]}"
            )


def open_examples(source: DomainSource, *, split: str, sequence_length: int) -> Examples:
    """Open one split of one set, each document in sequences of its own. Reads whole indices.

    Args:
        source: The set's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, the most targets of a sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, a document has fewer than two tokens or there is none.
    """
    manifest = read_manifest(source.path)
    shards = open_shards(source, manifest, split)
    if manifest.num_documents(split) < 1:
        raise ShardError(f"{source.path}: split {split}: expected a document, found none")
    return Examples(
        source.name,
        source.path,
        shards,
        manifest.tokenizer,
        sequence_length=sequence_length,
    )


def _check_targets(shard: IndexedShard, starts: IntArray) -> None:
    lengths = np.diff(starts)
    short = np.flatnonzero(lengths < 2)
    if short.size:
        raise ShardError(
            f"{index_path(shard.prefix)}: document {short[0]}: expected at least 2 tokens, "
            f"an input and a target, found {lengths[short[0]]}"
        )
