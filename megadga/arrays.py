"""Array types and the checks that every layer shares.

Shape letters used throughout: ``K`` domains, ``B`` sequences of a global batch, ``S`` tokens of a
sequence (a window has ``S + 1``: inputs and targets overlap), ``N`` sequences of any selection.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TokenArray = NDArray[np.integer[Any]]


def check_simplex(weights: ArrayLike, *, name: str = "weights") -> FloatArray:
    """Return ``weights`` as a float64 array after checking that it is a distribution.

    Args:
        weights: Non-negative numbers that sum to 1 within 1e-9, shape ``(K,)``, ``K >= 1``.
        name: What the error calls them.

    Raises:
        ValueError: If the shape, a value or the sum is wrong.
    """
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected shape (K,) with K >= 1, found {array.shape}")
    if not np.isfinite(array).all() or (array < 0.0).any():
        worst = int(np.argmin(np.where(np.isfinite(array), array, -np.inf)))
        raise ValueError(
            f"{name}: expected finite values >= 0, found {array[worst]} at index {worst}"
        )
    total = float(array.sum())
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"{name}: expected a sum of 1, found {total!r}")
    return array
