"""Sets of examples or dialogues: sequences of one document each, padded at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.folder import DomainSource, open_shards, open_spans
from megadga.data.indexed import IndexedShard, index_path, tokens_path
from megadga.data.manifest import TokenizerIdentity, read_manifest
from megadga.data.targets import PADDING, TrainedSpans, mark_targets
from megadga.errors import ShardError


@final
class Examples:
    """Sequences of one document each, padded at the end; a ``SequenceSet``.

    A document of at most ``S + 1`` tokens is one sequence. A longer one is split into sequences of
    ``S`` targets, of which the last is padded. Consecutive sequences share one token, the last
    target of one and the first input of the next, so that every token of a document but its first
    is a target exactly once. Memory: 24 bytes per sequence, meant for the few examples of a task.

    With trained spans, as of the assistant's turns of dialogues, tokens outside of them are inputs
    and no targets (see ``targets``). A sequence without targets is left out.

    Args:
        name: Name of the set in metrics.
        folder: Folder of its shards.
        shards: In order; at least one document in total.
        tokenizer: Tokenizer that produced the tokens.
        sequence_length: S, at least 1.
        spans: The trained spans of each shard; None: all tokens are trained.

    Attributes:
        num_documents: Number of documents.
        num_tokens: Number of tokens.
        num_long: Documents split into more than one sequence.
        num_left_out: Sequences without targets, which are left out.
        has_spans: Whether there are trained spans.

    Raises:
        ShardError: If a document has fewer than two tokens, hence no target, an index is
            damaged, or no token is trained.
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
        spans: Sequence[TrainedSpans] | None = None,
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
        # Per document: shard, first token in it, number of targets, number of sequences.
        shard_of = np.repeat(np.arange(len(bounds)), [starts.size - 1 for starts in bounds])
        firsts = np.concatenate([starts[:-1] for starts in bounds])
        targets = np.concatenate([np.diff(starts) - 1 for starts in bounds])
        counts: IntArray = -(-targets // sequence_length)
        self.num_long = int((counts > 1).sum())

        # Per sequence: document, targets of the document before it, then shard, first token and
        # number of tokens after it.
        document: IntArray = np.repeat(np.arange(counts.size), counts)
        index: IntArray = np.arange(document.size) - (np.cumsum(counts) - counts)[document]
        before = index * sequence_length
        self._shard_of = shard_of[document]
        self._starts = firsts[document] + before
        self._widths: IntArray = np.minimum(targets[document] - before, sequence_length)
        self._spans, self.has_spans = spans, spans is not None
        self._targets = self._widths if spans is None else self._count_trained(spans)
        left_out = self._targets == 0
        self.num_left_out = int(left_out.sum())
        if self.num_left_out:
            self._shard_of, self._starts = self._shard_of[~left_out], self._starts[~left_out]
            self._widths, self._targets = self._widths[~left_out], self._targets[~left_out]
        if not self._targets.size:
            raise ShardError(f"{folder}: expected trained tokens in {name}, found none")

    @property
    def num_sequences(self) -> int:
        """Number of sequences: ``ceil((n - 1) / S)`` for a document of ``n`` trained tokens."""
        return self._starts.size

    @property
    def padding_share(self) -> float:
        """Fraction of places for targets that are padding, in ``[0, 1)``."""
        return 1.0 - int(self._widths.sum()) / (self.num_sequences * self.sequence_length)

    @property
    def num_trained(self) -> int:
        """Number of targets of all sequences."""
        return int(self._targets.sum())

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of sequences; see ``SequenceSet``."""
        self._check_range(indices)
        windows = np.full((indices.size, self.sequence_length + 1), PADDING, dtype=np.int64)
        sources = np.stack([self._shard_of[indices], self._widths[indices]], axis=1)
        kinds, kind_of = np.unique(sources, axis=0, return_inverse=True)
        for kind in range(len(kinds)):  # rows of one shard and length are read together
            rows = np.flatnonzero(kind_of.ravel() == kind)
            starts = self._starts[indices[rows]]
            source, width = int(kinds[kind, 0]), int(kinds[kind, 1]) + 1
            shard = self._shards[source]
            tokens = shard.read(starts, width).astype(np.int64)
            self._check_ids(shard, starts, tokens)
            if self._spans is not None:
                tokens = mark_targets(tokens, self._spans[source].trained(starts, width))
            windows[rows, :width] = tokens
        for index in np.unique(kinds[:, 0]).tolist():
            self._shards[index].check_unchanged()
        return windows

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return the number of targets that are trained; see ``SequenceSet``."""
        self._check_range(indices)
        return self._targets[indices]

    def _count_trained(self, spans: Sequence[TrainedSpans]) -> IntArray:
        """Return the number of trained targets of each sequence, shape ``(N,)``."""
        counts = np.zeros_like(self._widths)
        for index, trained in enumerate(spans):
            rows = self._shard_of == index
            first = self._starts[rows] + 1  # the first token is no target
            last = first + self._widths[rows]
            counts[rows] = trained.num_before(last) - trained.num_before(first)
        return counts

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
    """Open one split of one set, with separate sequences for each document. Reads whole indices.

    Args:
        source: The set's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, maximum targets per sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, a document has fewer than two tokens, or there are none.
    """
    return _open_separately(source, split, sequence_length, chat=False)


def open_chat(source: DomainSource, *, split: str, sequence_length: int) -> Examples:
    """Open one split of a set of dialogues, of which only the trained spans are targets.

    Separate sequences for each dialogue, as ``open_examples``. Reads whole indices and spans.

    Args:
        source: The set's name and folder, as ``megadga data build --chat`` writes it.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, maximum targets per sequence, at least 1.

    Raises:
        ShardError: As ``open_examples``; if a shard has no trained spans, they are damaged, or no
            token is trained.
    """
    return _open_separately(source, split, sequence_length, chat=True)


def _open_separately(
    source: DomainSource, split: str, sequence_length: int, *, chat: bool
) -> Examples:
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
        spans=open_spans(shards, manifest.splits[split]) if chat else None,
    )


def _check_targets(shard: IndexedShard, starts: IntArray) -> None:
    lengths = np.diff(starts)
    short = np.flatnonzero(lengths < 2)
    if short.size:
        raise ShardError(
            f"{index_path(shard.prefix)}: document {short[0]}: expected at least 2 tokens, "
            f"an input and a target, found {lengths[short[0]]}"
        )
