"""Rails for a mixture that moves by itself: how far, from when, until when. Knows no rule."""

import numpy as np

from megadga.arrays import FloatArray


def total_variation(first: FloatArray, second: FloatArray) -> float:
    """Return ``sum_i |first_i - second_i| / 2``, in ``[0, 1]``.

    It is the share of a batch's sequences that come from another domain when one mixture replaces
    the other, and so means the same for 5 domains as for 262,144. Both of shape ``(K,)``.
    """
    return min(float(np.abs(first - second).sum()) / 2.0, 1.0)


def limit_change(before: FloatArray, after: FloatArray, max_change: float) -> FloatArray:
    """Return ``after``, or the mixture towards it that is ``max_change`` away from ``before``.

    The step is shortened along the straight line, so it keeps its direction, and what both ends
    satisfy (a floor, zeros).

    Args:
        before: A distribution, shape ``(K,)``.
        after: Another, shape ``(K,)``.
        max_change: Largest `total_variation`, in ``(0, 1]``; 1 is no limit.
    """
    change = total_variation(before, after)
    if change <= max_change:
        return after
    return before + (max_change / change) * (after - before)


def is_active(num_measured: int, *, warmup: int, freeze_after: int | None) -> bool:
    """Tell whether the next update may move the mixture.

    Args:
        num_measured: Updates so far, counting those that were left out.
        warmup: Updates to leave out at the start.
        freeze_after: Updates after which nothing moves any more; None for never.
    """
    return num_measured >= warmup and (freeze_after is None or num_measured < freeze_after)


def effective_domains(weights: FloatArray) -> float:
    """Return ``exp(-sum_i w_i ln w_i)``, in ``[1, K]``: as many equal weights have this entropy.

    Args:
        weights: A distribution, shape ``(K,)``.
    """
    positive = weights[weights > 0.0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def entropy_alarm(weights: FloatArray, *, min_effective: float) -> bool:
    """Tell whether a mixture has collapsed onto fewer than ``min_effective`` domains.

    Args:
        weights: A distribution, shape ``(K,)``.
        min_effective: Least number of `effective_domains` that is no cause for alarm.
    """
    return effective_domains(weights) < min_effective
