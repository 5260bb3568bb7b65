"""How well measurements of the same alignments agree, and what becomes of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray
from megadga.mixers.base import Alignments, Scheduler

PERIODS = ("early", "middle", "late")
"""Thirds of a run's updates."""


@dataclass(frozen=True, eq=False)
class Update:
    """The alignments of one update, measured in several ways on the same model.

    Attributes:
        step: Optimizer steps completed.
        reference: What the others are compared with, shape ``(K,)``.
        standard_errors: Of ``reference``, above 0, shape ``(K,)``.
        others: By name, each of shape ``(K,)``; a way that was not to be had then is left out.
    """

    step: int
    reference: FloatArray
    standard_errors: FloatArray
    others: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Agreement:
    """Deviations from the reference over some updates and all domains.

    Attributes:
        rms_in_errors: Root mean square of deviations, each in standard errors of its reference.
        largest_in_errors: The largest of those.
        rms_in_scale: Root mean square of deviations, each in units of the largest reference (by
            absolute value) of its update.
        largest_in_scale: The largest of those.
        correlation: With the reference over the domains; the median of the updates.
    """

    rms_in_errors: float
    largest_in_errors: float
    rms_in_scale: float
    largest_in_scale: float
    correlation: float


def periods(updates: Sequence[Update]) -> dict[str, Sequence[Update]]:
    """Cut updates into thirds in their order; with fewer than three, some are empty."""
    bounds = [round(third * len(updates) / 3) for third in range(4)]
    return {
        name: updates[start:end]
        for name, start, end in zip(PERIODS, bounds[:-1], bounds[1:], strict=True)
    }


def agreement(updates: Sequence[Update], name: str) -> Agreement | None:
    """Compare one way with the reference; None if no update has it."""
    having = [update for update in updates if name in update.others]
    if not having:
        return None
    deviations = [np.abs(each.others[name] - each.reference) for each in having]
    pairs = list(zip(deviations, having, strict=True))
    in_errors = np.array([deviation / each.standard_errors for deviation, each in pairs])
    in_scale = np.array([deviation / np.abs(each.reference).max() for deviation, each in pairs])
    correlations = [correlation(each.others[name], each.reference) for each in having]
    return Agreement(
        rms_in_errors=_root_mean_square(in_errors),
        largest_in_errors=float(in_errors.max()),
        rms_in_scale=_root_mean_square(in_scale),
        largest_in_scale=float(in_scale.max()),
        correlation=float(np.median(correlations)),
    )


def correlation(found: FloatArray, reference: FloatArray) -> float:
    """Return Pearson's correlation; NaN if either does not vary."""
    deviations = found - found.mean(), reference - reference.mean()
    lengths = np.linalg.norm(deviations[0]) * np.linalg.norm(deviations[1])
    return float(deviations[0] @ deviations[1] / lengths) if lengths else float("nan")


def alignments_of(updates: Sequence[Update], name: str) -> FloatArray | None:
    """Return what one way measured, shape ``(updates, K)``; None if an update lacks it."""
    if any(name not in update.others for update in updates):
        return None
    return np.array([update.others[name] for update in updates])


def replay(scheduler: Scheduler, alignments: FloatArray) -> FloatArray:
    """Return the averaged weights after each update that these alignments would have made.

    The model is not trained again on what the weights would have drawn.

    Args:
        scheduler: Reads inner products alone.
        alignments: Shape ``(updates, K)``.
    """
    state = scheduler.init()
    weights: list[FloatArray] = []
    for dots in alignments:
        state = scheduler.update(state, Alignments(dots=dots, specific_squared_norm=1.0))
        weights.append(state.averaged_weights)
    return np.array(weights)


def total_variation(weights: FloatArray, others: FloatArray) -> FloatArray:
    """Return half the sum of absolute differences over the last axis: mass that would move."""
    return 0.5 * np.abs(weights - others).sum(axis=-1)


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns line up; the first is flush left."""
    align = ("left", *("right",) * (len(titles) - 1))
    return tabulate(rows, titles, "pipe", disable_numparse=True, colalign=align) + "\n"


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
