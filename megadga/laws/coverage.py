"""Where a law extrapolates: mixtures outside of those that it was fitted to."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.laws.fitting import EXTRA
from megadga.prepare.extras import import_extra

_TOLERANCE = 1e-3
"""Total variation up to which a mixture counts as an average of others."""
_MAX_NAMED = 8


def distance_from_averages(mixture: FloatArray, seen: FloatArray) -> float:
    """Return how far a mixture is from the averages of others, in total variation.

    From the average that is nearest in squares: 0 exactly where the mixture is one, that is, in
    the convex hull of the others.

    Args:
        mixture: Shape ``(K,)``.
        seen: Shape ``(N, K)``.
    """
    optimize: Any = import_extra("scipy.optimize", extra=EXTRA)
    # A row of ones with a large weight keeps the sum of shares near 1; it is divided out.
    weight = 1e3
    design = np.vstack([seen.T, weight * np.ones(len(seen))])
    shares, _ = optimize.nnls(design, np.append(mixture, weight))
    average = (shares / shares.sum()) @ seen
    return 0.5 * float(np.abs(average - mixture).sum())


def find_extrapolation(
    mixture: FloatArray, seen: FloatArray, domains: Sequence[str]
) -> Iterator[str]:
    """Yield what is beyond the mixtures that a law was fitted to, as sentences; nothing inside.

    Args:
        mixture: Shape ``(K,)``.
        seen: Shape ``(N, K)``.
        domains: Names, ``K`` of them.
    """
    low, high = seen.min(axis=0), seen.max(axis=0)
    outside = np.flatnonzero((mixture < low - _TOLERANCE) | (mixture > high + _TOLERANCE))
    for index in outside[:_MAX_NAMED].tolist():
        yield (
            f"extrapolates: {domains[index]} has {mixture[index]:.3f}, and had "
            f"{low[index]:.3f} to {high[index]:.3f} in the runs"
        )
    if outside.size > _MAX_NAMED:
        yield f"extrapolates: {outside.size - _MAX_NAMED} more domains are outside of theirs"
    distance = distance_from_averages(mixture, seen)
    if distance > _TOLERANCE:
        yield (
            f"extrapolates: the nearest average of the runs' mixtures is {distance:.3f} away "
            "in total variation"
        )
