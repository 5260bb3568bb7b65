"""Two ways to draw the domains of a batch's rows from a mixture. Knows no windows and no state.

Both lay the rows that domains expect end to end on the line ``[0, B)`` and look up ``B`` points.
"""

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.sampling.addresses import GOLDEN


def systematic(weights: FloatArray, num_rows: int, offset: float) -> IntArray:
    """Draw one row from each unit of the line: the points are ``offset + 0, 1, ..., B - 1``.

    Domain ``i`` expects ``e_i = B weights_i / sum`` rows. It is drawn ``floor(e_i)`` or
    ``ceil(e_i)`` times whatever the offset, and ``e_i`` times on average over offsets uniform in
    ``[0, 1)`` (Madow 1949). O(K + B log K).

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        offset: In ``[0, 1)``.

    Returns:
        Domains in ascending order, shape ``(B,)``; never one without weight.
    """
    # On this grid offset + row is exact: no point is rounded up into the next unit.
    grid = float(np.spacing(float(num_rows)))
    return _locate(weights, np.arange(num_rows) + np.floor(offset / grid) * grid, num_rows)


def golden_offset(start: int, number: int) -> float:
    """Return a term of the Kronecker sequence ``u_0 + t / golden ratio (mod 1)``, in ``[0, 1)``.

    It is computed modulo 2^64 in integers: no rounding grows with the number.

    Args:
        start: ``u_0 * 2^64``, in ``[0, 2^64)``.
        number: ``t``, at least 0.
    """
    return ((start + number * GOLDEN) % 2**64 >> 11) * 2.0**-53


def multinomial(weights: FloatArray, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Draw every row on its own, as Algorithm 1 of the paper says it.

    Args:
        weights: Not negative, not all 0, in any unit, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        rng: Where the ``B`` random numbers come from.

    Returns:
        Domains, shape ``(B,)``; never one without weight.
    """
    return _locate(weights, rng.random(num_rows) * num_rows, num_rows)


def occurrences(domains: IntArray) -> IntArray:
    """Return how many rows before each row are of the same domain, shape ``(N,)``."""
    order = np.argsort(domains, kind="stable")
    ordered = domains[order]
    counts = np.empty_like(domains)
    counts[order] = np.arange(domains.size) - np.searchsorted(ordered, ordered)
    return counts


def _locate(weights: FloatArray, points: FloatArray, num_rows: int) -> IntArray:
    """Return the domain on whose part of the line ``[0, num_rows)`` each point lies.

    Domain ``i`` owns ``[ends[i-1], ends[i])``, which is empty where there is no weight.
    """
    ends = np.cumsum(weights)
    ends *= num_rows / ends[-1]
    # Rounding may leave the last end below the last point. Domains after the last one with weight
    # share its end, so that their parts stay empty.
    ends[ends == ends[-1]] = num_rows
    return np.searchsorted(ends, points, side="right").astype(np.int64, copy=False)
