"""A domain: part of a token stream, cut into training sequences (windows)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.manifest import TokenizerIdentity
from megadga.data.stream import TokenStream

PADDING = -100
"""Stands in a sequence where its document has ended, and is no token: ``cross_entropy`` of torch
passes over such targets by default. A model that embeds its inputs must not look it up."""


class SequenceSet(Protocol):
    """Documents as sequences of ``S + 1`` tokens, ``S`` inputs and ``S`` targets that overlap."""

    @property
    def name(self) -> str:
        """What metrics and weights call the set."""
        ...

    @property
    def folder(self) -> Path:
        """Where its shards lie."""
        ...

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """What wrote the tokens."""
        ...

    @property
    def sequence_length(self) -> int:
        """Targets of a full sequence (S), at least 1."""
        ...

    @property
    def num_documents(self) -> int:
        """Documents in the set."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens in the set; padding is none."""
        ...

    @property
    def num_sequences(self) -> int:
        """Sequences in the set, at least 1."""
        ...

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences.

        Args:
            indices: Sequences in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, then ``PADDING`` where a document ends early, shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is gone or cut.
        """
        ...

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return how many targets of some sequences are tokens: in ``[1, S]``, shape ``(n,)``.

        Losses are means over these.

        Args:
            indices: Sequences in ``[0, num_sequences)``, shape ``(n,)``.
        """
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """Windows of ``S + 1`` tokens, by arithmetic, over a part of a stream; a ``SequenceSet``.

    Window ``j`` is tokens ``[jS, jS + S]`` of the part: neighbours share one token, the last
    target of one and the first input of the next. Nothing is indexed or cached.

    Attributes:
        name: What metrics and weights call the domain.
        stream: What it is a part of; may be all of it.
        begin: Position in the stream at which it begins.
        end: Position in the stream at which it has ended.
        num_documents: Documents in it.
        sequence_length: S, at least 1.

    Raises:
        ValueError: If it is no part of the stream or not even one window fits.
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
                f"{self.name}: expected a part of [0, {self.stream.num_tokens}), "
                f"found [{self.begin}, {self.end})"
            )
        if self.end - self.begin <= self.sequence_length or self.sequence_length < 1:
            raise ValueError(
                f"{self.name}: expected at least {self.sequence_length + 1} >= 2 tokens, "
                f"found {self.num_tokens}"
            )

    @property
    def folder(self) -> Path:
        """Where its shards lie."""
        return self.stream.folder

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """What wrote the tokens."""
        return self.stream.tokenizer

    @property
    def num_tokens(self) -> int:
        """Tokens in it."""
        return self.end - self.begin

    @property
    def num_sequences(self) -> int:
        """Windows: ``(num_tokens - 1) // S``; up to ``S`` tokens at the end are in none."""
        return (self.end - self.begin - 1) // self.sequence_length

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
        return self.stream.gather(self.positions(indices), self.sequence_length + 1)

    def positions(self, indices: IntArray) -> IntArray:
        """Return where in the stream some windows begin, shape ``(n,)``.

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
        """Return how many targets of each window count in a loss: all ``S``; shape ``(n,)``."""
        return np.full(indices.shape, self.sequence_length, dtype=np.int64)

    def tokens(self, start: int, stop: int) -> TokenArray:
        """Return the tokens in ``[start, stop)``, counted from the domain's first one.

        Args:
            start: In ``[0, stop]``.
            stop: At most ``num_tokens``.

        Returns:
            Token ids as they are stored, shape ``(stop - start,)``.

        Raises:
            IndexError: If that is not a range inside the domain.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is gone or cut.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(
                f"{self.name}: expected 0 <= start <= stop <= {self.num_tokens}, "
                f"found {start} and {stop}"
            )
        return self.stream.tokens(self.begin + start, self.begin + stop)
