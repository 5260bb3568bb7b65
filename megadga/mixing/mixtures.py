"""Distributions over the domains, as sparse rows. Knows no rule and no file."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray

TOLERANCE = 1e-12
"""How far a row may be from a sum of 1. Mixtures of rows are no further off than their weights and
this, which is far less than what samplers accept, so that nothing has to be divided out."""


@final
@dataclass(frozen=True, eq=False)
class Mixtures:
    """``n`` distributions over ``K`` domains: P of shape ``(n, K)``, as compressed sparse rows.

    Attributes:
        names: What records call the rows, ``n >= 1`` of them.
        num_domains: ``K``.
        indptr: Where each row's entries begin, and end, shape ``(n + 1,)``; no row is empty.
        indices: The entries' domains, in ``[0, K)``, ascending in each row, shape ``(entries,)``.
        data: The entries' shares, above 0, shape ``(entries,)``; each row sums to 1 within
            ``TOLERANCE``.

    Raises:
        ValueError: If something is not as said.
    """

    names: tuple[str, ...]
    num_domains: int
    indptr: IntArray
    indices: IntArray
    data: FloatArray

    def __post_init__(self) -> None:
        self._check_rows()
        if not ((self.indices >= 0) & (self.indices < self.num_domains)).all():
            raise ValueError(f"mixtures: expected domains in [0, {self.num_domains})")
        same_row = self.rows[1:] == self.rows[:-1]
        if not (np.diff(self.indices)[same_row] > 0).all():
            raise ValueError("mixtures: expected domains that ascend in each row")
        if not (self.data > 0.0).all():
            raise ValueError("mixtures: expected shares above 0")
        sums = row_sums(self.data, self.indptr)
        if not (np.abs(sums - 1.0) <= TOLERANCE).all():
            row = int(np.argmax(~(np.abs(sums - 1.0) <= TOLERANCE)))
            raise ValueError(
                f"mixtures: {self.names[row]}: expected a sum of 1, found {float(sums[row])!r}"
            )

    @property
    def num_entries(self) -> int:
        """Numbers above 0 in P."""
        return self.data.size

    @cached_property
    def rows(self) -> IntArray:
        """Row of each entry, shape ``(entries,)``."""
        return np.repeat(np.arange(len(self.names), dtype=np.int64), np.diff(self.indptr))

    def row(self, index: int) -> tuple[IntArray, FloatArray]:
        """Return the domains of one row, ascending, and their shares; views, of one length."""
        entries = slice(self.indptr[index], self.indptr[index + 1])
        return self.indices[entries], self.data[entries]

    def mix(self, weights: FloatArray) -> FloatArray:
        """Return ``weights @ P``, a distribution over the domains, shape ``(K,)``.

        Time and memory are linear in K and the entries. Each domain's terms are added in the order
        of the rows, so that equal weights give equal bits; of the identity they are the weights'.

        Args:
            weights: A distribution over the rows, shape ``(n,)``.
        """
        shares = weights[self.rows] * self.data
        mixed = np.bincount(self.indices, weights=shares, minlength=self.num_domains)
        return mixed.astype(np.float64, copy=False)

    def _check_rows(self) -> None:
        expected = (len(self.names) + 1,)
        if not self.names or self.indptr.shape != expected:
            raise ValueError(
                f"mixtures: expected names and row bounds of shape {expected}, "
                f"found {len(self.names)} and {self.indptr.shape}"
            )
        if self.data.ndim != 1 or self.indices.shape != self.data.shape:
            raise ValueError(
                "mixtures: expected domains and shares of one shape (entries,), "
                f"found {self.indices.shape} and {self.data.shape}"
            )
        bounds = (int(self.indptr[0]), int(self.indptr[-1]))
        if bounds != (0, self.data.size) or not (np.diff(self.indptr) > 0).all():
            raise ValueError(f"mixtures: expected row bounds that ascend to {self.data.size}")


def row_sums(data: FloatArray, indptr: IntArray) -> FloatArray:
    """Return the sum of each row's entries, shape ``(n,)``.

    Row by row, as numpy adds a whole array pairwise: in ``reduceat`` and ``bincount`` the rounding
    of some hundred thousand terms may add up to more than ``TOLERANCE``.
    """
    return np.array([data[begin:end].sum() for begin, end in pairwise(indptr.tolist())])
