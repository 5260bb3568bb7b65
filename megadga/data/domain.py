"""A domain: part of a token stream, cut into training sequences (windows)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.manifest import TokenizerIdentity
from megadga.data.stream import TokenStream


class SequenceSet(Protocol):
    """Documents as sequences of ``S + 1`` tokens: ``S`` inputs, and targets shifted by one."""

    @property
    def name(self) -> str:
        """Name of the set in metrics and weights."""
        ...

    @property
    def folder(self) -> Path:
        """Folder of its shards."""
        ...

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """Tokenizer that produced the tokens."""
        ...

    @property
    def sequence_length(self) -> int:
        """Targets per full sequence (S), at least 1."""
        ...

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        ...

    @property
    def num_tokens(self) -> int:
        """Number of tokens, padding excluded."""
        ...

    @property
    def num_sequences(self) -> int:
        """Number of sequences, at least 1."""
        ...

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences.

        Args:
            indices: Sequence indices in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, with ``PADDING`` after the end of a short document, and tokens that are no
            targets as ``INPUT_ONLY - id`` (see ``targets``), shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        ...

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return the number of targets that are trained, in ``[1, S]``, shape ``(n,)``.

        A sequence's loss is the mean over these.

        Args:
            indices: Sequence indices in ``[0, num_sequences)``, shape ``(n,)``.
        """
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """A range of a token stream, cut into windows of ``S + 1`` tokens; a ``SequenceSet``.

    Window ``j`` is tokens ``[jS, jS + S]`` of the range. Consecutive windows share one token: the
    last target of one is the first input of the next. Offsets are computed; no index is stored.

    Attributes:
        name: Name of the domain in metrics and weights.
        stream: The token stream.
        begin: First position of the range in the stream.
        end: Position after the last one.
        num_documents: Number of documents.
        sequence_length: S, at least 1.

    Raises:
        ValueError: If the range is not inside the stream or is shorter than one window.
    """

    name: str
    stream: TokenStream
    begin: int
    end: int
    num_documents: int
    sequence_length: int

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= self.stream.num_tokens:
            raise ValueError(
                f"{self.name}: expected a range inside [0, {self.stream.num_tokens}), "
                f"found [{self.begin}, {self.end})"
            )
        if self.end - self.begin <= self.sequence_length or self.sequence_length < 1:
            raise ValueError(
                f"{self.name}: expected at least {self.sequence_length + 1} >= 2 tokens, "
                f"found {self.num_tokens}"
            )

    @property
    def folder(self) -> Path:
        """Folder of its shards."""
        return self.stream.folder

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """Tokenizer that produced the tokens."""
        return self.stream.tokenizer

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.begin

    @property
    def num_sequences(self) -> int:
        """Number of windows, ``(num_tokens - 1) // S``; up to ``S`` trailing tokens are unused."""
        return (self.end - self.begin - 1) // self.sequence_length

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some windows.

        Args:
            indices: Window indices in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        return self.stream.gather(self.positions(indices), self.sequence_length + 1)

    def positions(self, indices: IntArray) -> IntArray:
        """Return the stream positions at which windows begin, shape ``(n,)``.

        Raises:
            IndexError: If an index is out of range.
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_sequences:
            raise IndexError(
                f"{self.name}: expected windows in [0, {self.num_sequences}), "
                f"found {indices.min()} to {indices.max()}"
            )
        return self.begin + indices * self.sequence_length

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return the number of targets of each window, always ``S``; shape ``(n,)``."""
        return np.full(indices.shape, self.sequence_length, dtype=np.int64)

    def tokens(self, start: int, stop: int) -> TokenArray:
        """Return the tokens in ``[start, stop)``, counted from the domain's first token.

        Args:
            start: In ``[0, stop]``.
            stop: At most ``num_tokens``.

        Returns:
            Token ids as they are stored, shape ``(stop - start,)``.

        Raises:
            IndexError: If the range is not inside the domain.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(
                f"{self.name}: expected 0 <= start <= stop <= {self.num_tokens}, "
                f"found {start} and {stop}"
            )
        return self.stream.tokens(self.begin + start, self.begin + stop)
