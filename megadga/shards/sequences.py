"""What a model is shown of a set of documents: sequences of one length. Knows no way to cut."""

from pathlib import Path
from typing import Protocol

from megadga.arrays import IntArray
from megadga.shards.manifest import TokenizerIdentity

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
