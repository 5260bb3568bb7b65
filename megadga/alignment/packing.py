"""Sequences of many sets as one numbered list, read in any order. Knows no model and no rank."""

from collections.abc import Sequence
from typing import final

import numpy as np

from megadga.alignment.protocols import Drawn
from megadga.arrays import IntArray


@final
class PackedSequences:
    """The sequences of several sets, one after another, so that micro-batches may mix them.

    Args:
        sets: At least one; all of one sequence length.

    Attributes:
        sets_of_rows: Which set each row belongs to, shape ``(N,)``.
        num_targets: Targets of each row that are tokens, shape ``(N,)``.
    """

    def __init__(self, sets: Sequence[Drawn]) -> None:
        self._sets = tuple(sets)
        sizes = np.array([len(drawn) for drawn in sets], dtype=np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self.sets_of_rows = np.repeat(np.arange(len(sets), dtype=np.int64), sizes)
        self.num_targets = np.concatenate([drawn.num_targets() for drawn in sets])

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some rows, in their order, shape ``(len(rows), S + 1)``."""
        owners = self.sets_of_rows[rows]
        order = np.argsort(owners, kind="stable")
        read = [
            self._sets[owner].read(rows[owners == owner] - self._starts[owner])
            for owner in map(int, np.unique(owners))
        ]
        return np.concatenate(read)[np.argsort(order, kind="stable")]
