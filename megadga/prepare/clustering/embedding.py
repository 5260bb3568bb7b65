"""Texts to points on the unit sphere: the seam between embeddings and clusterings.

Knows no embedding in particular.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

EmbeddingKind = Literal["tfidf", "sentence-transformers"]
PointArray = NDArray[np.float32]
"""Points, shape ``(n, d)``."""


class Embedder(Protocol):
    """Embeds texts; picklable, for worker processes, at the cost of its path alone."""

    @property
    def kind(self) -> EmbeddingKind:
        """Which embedding it is."""
        ...

    @property
    def path(self) -> Path:
        """The file or folder that it was read from."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it was read from, hexadecimal."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of an embedding (``d``), at least 1."""
        ...

    def embed(self, texts: Sequence[str]) -> PointArray:
        """Return the texts' embeddings, shape ``(len(texts), d)``.

        Rows have norm 1, but for a text in which nothing is known to the embedding: its row is 0.
        """
        ...


def unit_rows(rows: PointArray) -> PointArray:
    """Return every row divided by its norm; rows of 0 stay. Shape ``(n, d)``."""
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.0)
