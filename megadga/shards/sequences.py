"""What training, measuring and evaluating need of a set of sequences. Knows no way to store it."""

from pathlib import Path
from typing import Protocol

from megadga.arrays import IntArray
from megadga.shards.manifest import TokenizerIdentity


class SequenceSet(Protocol):
    """Sequences of ``S`` inputs and their targets, each found by its index."""

    @property
    def name(self) -> str:
        """What metrics and weights call it."""
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
        """S, at least 1."""
        ...

    @property
    def num_documents(self) -> int:
        """Documents in it."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens in it."""
        ...

    @property
    def num_sequences(self) -> int:
        """Sequences in it, at least 1."""
        ...

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences, each in ``[0, num_sequences)``: ``(n, S + 1)``."""
        ...

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return how many targets of each of them count in a loss, in ``[1, S]``: ``(n,)``."""
        ...
