"""Constants from timed passes: those with which the formulas come closest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.planning.compute import Kernels, backward_kernels, forward_kernels
from megadga.planning.workload import Workload

_NAMES = ("matmul_flops", "attention_flops", "memory_bandwidth", "seconds_per_operation")
_PRIOR_WEIGHT = 0.05
"""Of a constant's own measurement, where a timed pass has 1."""
_ROUNDS = 8


@final
@dataclass(frozen=True)
class TimedPass:
    """A forward and backward pass of one micro-batch.

    Attributes:
        workload: Whose.
        seconds: What it took, above 0.
    """

    workload: Workload
    seconds: float


def fit_constants(passes: Sequence[TimedPass], alone: Mapping[str, float]) -> dict[str, float]:
    """Return the constants that explain timed passes best, in relative deviations.

    Seconds are linear in the times of a FLOP, of a byte and of a start once it is known which
    operations are bound by what, which the constants themselves decide: a few rounds of least
    squares, where no constant may be more than 10 times off its own measurement.

    Args:
        passes: At least one.
        alone: Each constant as measured by itself, above 0: where passes tell little, it stays.
    """
    prior = np.array([_unit_time(name, alone[name]) for name in _NAMES])
    times = prior
    for _ in range(_ROUNDS):
        features = np.array([_features(each.workload, times) for each in passes])
        seconds = np.array([each.seconds for each in passes])
        rows = np.vstack([features / seconds[:, None], _PRIOR_WEIGHT * np.diag(1.0 / prior)])
        wanted = np.concatenate([np.ones(len(passes)), np.full(len(prior), _PRIOR_WEIGHT)])
        times = _bounded(rows, wanted, prior)
    return {name: _unit_time(name, time) for name, time in zip(_NAMES, times, strict=True)}


def _unit_time(name: str, value: float) -> float:
    """Turn a rate into the time of one unit, or back; a start is a time already."""
    return float(value if name == "seconds_per_operation" else 1.0 / value)


def _features(workload: Workload, times: FloatArray) -> FloatArray:
    """Return how much a pass has of each: FLOPs of products, of attention, bytes and starts."""
    found = np.zeros(len(_NAMES))
    for each in (*forward_kernels(workload), *backward_kernels(workload)):
        found += _bound(each, times)
    return found


def _bound(kernels: Kernels, times: FloatArray) -> FloatArray:
    matmul, attention, memory, _ = times
    place = 1 if kernels.kind == "attention" else 0
    arithmetic = kernels.flops * (attention if place else matmul)
    own = np.zeros(len(_NAMES))
    if arithmetic >= kernels.num_bytes * memory:
        own[place] = kernels.flops
    else:
        own[2] = kernels.num_bytes
    own[3] = kernels.count
    return own


def _bounded(rows: FloatArray, wanted: FloatArray, prior: FloatArray) -> FloatArray:
    """Return the least-squares solution between a tenth and ten times a prior.

    Every choice of unknowns that stay at a bound is tried: there are four unknowns.
    """
    best, least = prior, np.inf
    for choice in product((None, 0.1, 10.0), repeat=len(prior)):
        free = np.array([each is None for each in choice])
        solution = prior * np.array([each or 1.0 for each in choice])
        if free.any():
            rest = wanted - rows[:, ~free] @ solution[~free]
            solution[free] = np.linalg.lstsq(rows[:, free], rest, rcond=None)[0]
        if ((solution < 0.0999 * prior) | (solution > 10.001 * prior)).any():
            continue
        error = float(np.square(rows @ solution - wanted).sum())
        if error < least:
            best, least = solution, error
    return best
