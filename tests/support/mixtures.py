"""Small bases for tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from megadga.mixers.base import Mixtures


def mixtures_of(rows: ArrayLike, names: Sequence[str] = ()) -> Mixtures:
    """Return dense rows of shape ``(n, K)`` as sparse ones, called ``b0, b1, ...`` by default."""
    dense = np.asarray(rows, dtype=np.float64)
    owners, indices = np.nonzero(dense)
    counts = np.bincount(owners, minlength=len(dense))
    return Mixtures(
        tuple(names) or tuple(f"b{i}" for i in range(len(dense))),
        dense.shape[1],
        np.cumsum([0, *counts]),
        indices,
        dense[owners, indices],
    )


def identity(num_domains: int, names: Sequence[str] = ()) -> Mixtures:
    """Return the basis of each domain alone."""
    return mixtures_of(np.eye(num_domains), names)
