"""Which steps of a long run a figure needs: as many as it has pixels, each as it was logged.

A figure of 10,000 steps on 1,000 pixels looks the same without most of them. What is kept are
steps that were logged, never means between them, so that every value that a figure shows is true.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.run_folder.domain_log import Series


def moving_mean(values: FloatArray, window: int) -> FloatArray:
    """Return the mean over the values around each; fewer at both ends.

    Args:
        values: Shape ``(N, ...)``; those that are NaN are left out.
        window: Values that are averaged, at least 1.
    """
    known = np.isfinite(values)
    starts, ends = _around(len(values), window)
    sums = _cumulative(np.where(known, values, 0.0))
    counts = _cumulative(known.astype(np.float64))
    total, count = sums[ends] - sums[starts], counts[ends] - counts[starts]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.0)


def _around(size: int, window: int) -> tuple[IntArray, IntArray]:
    places = np.arange(size)
    return np.maximum(places - (window - 1) // 2, 0), np.minimum(places + window // 2 + 1, size)


def _cumulative(values: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def extreme_steps(series: Series, most: int) -> IntArray:
    """Return the steps of the first, the last, and the extremes in each of equal parts.

    Args:
        series: ``M`` curves.
        most: About as many steps are returned for each curve, at least 4.
    """
    size = series.steps.size
    if size <= most:
        return series.steps
    bounds = np.linspace(0, size, most // 2 + 1).astype(np.int64)
    kept = {0, size - 1}
    for column in series.values.T:
        lowest, highest = np.where(np.isnan(column), [[np.inf], [-np.inf]], column)
        for begin, end in pairwise(bounds.tolist()):
            kept.add(begin + int(np.argmin(lowest[begin:end])))
            kept.add(begin + int(np.argmax(highest[begin:end])))
    return series.steps[np.array(sorted(kept))]


def spaced_steps(steps: IntArray, most: int) -> IntArray:
    """Return the first step, the last, and others evenly between, at most ``most`` of them."""
    if steps.size <= most:
        return steps
    return steps[np.unique(np.linspace(0, steps.size - 1, most).round().astype(np.int64))]


def at_steps(series: Series, steps: IntArray) -> Series:
    """Return a series at those of its steps that are among some, and at its last."""
    kept = np.isin(series.steps, steps)
    kept[-1:] = True
    return Series(series.names, series.steps[kept], series.values[kept])


def thin_curves(runs: Sequence[Series], most: int) -> list[Series]:
    """Thin curves that are drawn as lines: runs that are averaged keep the same steps.

    Args:
        runs: A series of each run.
        most: About as many steps are kept for all of them together, and for each curve.
    """
    most = max(4, most // max(1, len(runs)))
    union = np.unique([step for each in runs for step in extreme_steps(each, most).tolist()])
    return [at_steps(each, union) for each in runs]


def thin_tables(runs: Sequence[Series], most: int) -> list[Series]:
    """Thin values by domain, which have the same steps for all domains, evenly.

    Args:
        runs: A series of each run.
        most: Steps that are kept, and the last of each run.
    """
    union = np.unique([step for each in runs for step in each.steps.tolist()])
    kept = spaced_steps(union, most)
    return [at_steps(each, kept) for each in runs]
