"""Two ways to draw the domains of a batch's rows from a mixture. Knows no windows and no state.

Both lay the domains' expected rows end to end on ``[0, B)`` and look up ``B`` points on that line.
"""

import numpy as np

from megadga.arrays import FloatArray, IntArray


def systematic(expected: FloatArray, num_rows: int, offset: float) -> IntArray:
    """Draw one row from each unit of the line: the points are ``offset + 0, 1, ..., B - 1``.

    With an offset uniform in ``[0, 1)`` every domain is drawn as often as expected on average, and
    for any offset it is drawn ``floor(e_i)`` or ``ceil(e_i)`` times (Madow 1949). O(K + B log K).

    Args:
        expected: Expected rows ``e_i`` of each domain, not negative, sum ``num_rows`` up to
            rounding, shape ``(K,)``.
        num_rows: ``B``, at least 1.
        offset: In ``[0, 1)``.

    Returns:
        Domains in ascending order, shape ``(B,)``; never one that expects 0 rows.
    """
    # On this grid offset + row is exact: no point is rounded up into the next unit.
    grid = float(np.spacing(float(num_rows)))
    return _locate(expected, np.arange(num_rows) + np.floor(offset / grid) * grid, num_rows)


def multinomial(expected: FloatArray, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Draw every row on its own, as Algorithm 1 of the paper says it.

    Args:
        expected: Expected rows of each domain, as for :func:`systematic`.
        num_rows: ``B``, at least 1.
        rng: Where the ``B`` random numbers come from.

    Returns:
        Domains, shape ``(B,)``; never one that expects 0 rows.
    """
    return _locate(expected, rng.random(num_rows) * num_rows, num_rows)


def occurrences(domains: IntArray) -> IntArray:
    """Return how many rows before each row are of the same domain, shape ``(N,)``."""
    order = np.argsort(domains, kind="stable")
    ordered = domains[order]
    counts = np.empty_like(domains)
    counts[order] = np.arange(domains.size) - np.searchsorted(ordered, ordered)
    return counts


def _locate(expected: FloatArray, points: FloatArray, num_rows: int) -> IntArray:
    """Return the domain on whose part of the line ``[0, num_rows)`` each point lies.

    Domain ``i`` owns ``[ends[i-1], ends[i])``, which is empty where nothing is expected.
    """
    ends = np.cumsum(expected)
    ends *= num_rows / ends[-1]
    # Rounding may leave the last end below the last point. Domains after the last one that expects
    # rows share its end, so that their parts stay empty.
    ends[ends == ends[-1]] = num_rows
    return np.searchsorted(ends, points, side="right").astype(np.int64, copy=False)
