"""Places labels beside each other that would overlap where they belong. Knows no plot."""

from collections.abc import Sequence


def spread(
    positions: Sequence[float], *, gap: float, lowest: float, highest: float
) -> list[float]:
    """Return positions at least ``gap`` apart, each close to where it was, in the same order.

    Args:
        positions: In any order.
        gap: Least distance between two, above 0. If they do not fit between ``lowest`` and
            ``highest``, as far apart as they can be.
        lowest: Bound of every position returned.
        highest: Likewise.
    """
    if not positions:
        return []
    gap = min(gap, (highest - lowest) / max(1, len(positions) - 1))
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [0.0] * len(positions)
    bound = lowest
    for index in order:  # upwards: none below its neighbour or the bottom
        placed[index] = max(positions[index], bound)
        bound = placed[index] + gap
    bound = highest
    for index in reversed(order):  # downwards: none above the top, nor closer than the gap
        placed[index] = min(placed[index], bound)
        bound = placed[index] - gap
    return placed
