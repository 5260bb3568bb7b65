"""Keeps a batch within the rows that each domain has left. Knows no epochs and no windows."""

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.sampling.draws import occurrences, systematic


def cap_weights(weights: FloatArray, limits: IntArray, num_rows: int) -> FloatArray:
    """Hand the mass above ``limits / num_rows`` to the other domains, in proportion to theirs.

    This is the nearest mixture in ``KL(w || weights)`` that satisfies the limits:
    ``w_i = min(limits_i / B, c weights_i)`` with the ``c`` for which they sum to 1.

    Args:
        weights: A mixture, shape ``(K,)``.
        limits: The most rows each domain may get, not negative, shape ``(K,)``. Those of the
            domains with a weight sum to at least ``num_rows``.
        num_rows: ``B``.

    Returns:
        ``weights`` itself if no limit binds, else a new array. Zeros stay zero.
    """
    if not (weights * num_rows > limits).any():
        return weights
    capped = np.zeros(weights.shape, dtype=bool)
    expected = weights * num_rows
    while (above := expected > limits).any():
        capped |= above
        # Sums of limits are exact, so what is left to hand out is never negative.
        rows_left = num_rows - int(limits[capped].sum())
        free = ~capped & (weights > 0.0)
        expected = np.where(capped, limits, 0.0)
        if free.any():
            expected[free] = weights[free] / weights[free].sum() * rows_left
    return expected / num_rows


def move_surplus(
    domains: IntArray, expected: FloatArray, limits: IntArray, rng: np.random.Generator
) -> IntArray:
    """Give rows that exceed a domain's limit to domains that got fewer than they expect.

    Independent draws overshoot a limit by chance. Systematic ones can do so only by rounding where
    a domain expects its limit; the row that is moved then keeps both within one of expectation.

    Args:
        domains: The domain of each row, shape ``(B,)``.
        expected: Expected rows, at most ``limits``, sum ``B`` up to rounding, shape ``(K,)``.
        limits: The most rows each domain may get, shape ``(K,)``.
        rng: Decides between the domains that are short.

    Returns:
        Domains of which none occurs more often than its limit, shape ``(B,)``.
    """
    while (surplus := occurrences(domains) >= limits[domains]).any():
        kept = np.bincount(domains[~surplus], minlength=expected.size)
        missing = np.maximum(expected - kept, 0.0)
        domains = domains.copy()
        domains[surplus] = systematic(missing, int(surplus.sum()), rng.random())
    return domains
