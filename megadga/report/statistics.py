"""Statistics of a run's history that advice rests on: noise, signal, swings, pace; pure numpy."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.safeguards import signal_to_noise
from megadga.report.alignments import AlignmentHistory
from megadga.run_folder.domain_log import Series


def last(series: Series, number: int) -> Series:
    """Return the last ``number`` rows of a series, or all if there are fewer."""
    return Series(series.names, series.steps[-number:], series.values[-number:])


_NORMAL_MEDIAN = 0.6745
"""Median of the magnitude of a normally distributed value, in standard deviations."""


def noise(values: FloatArray) -> FloatArray:
    """Return the standard deviation of independent errors around smooth curves.

    By second differences, ``median |v_(t-1) - 2 v_t + v_(t+1)| / (0.6745 sqrt(6))``, which a
    straight line does not enter, and a bend in less than half of a curve hardly.

    Args:
        values: Shape ``(N, K)``, ``N`` at least 3.

    Returns:
        Shape ``(K,)``; NaN where a value is.
    """
    second = np.abs(np.diff(values, n=2, axis=0))
    deviations: FloatArray = np.median(second, axis=0) / (_NORMAL_MEDIAN * np.sqrt(6.0))
    return deviations


_POOLED = 4
"""Updates that variances are added up over: those of two sequences a domain are uncertain."""


@final
@dataclass(frozen=True)
class Signal:
    """How much more than by noise the alignments of domains differ, over some updates.

    Attributes:
        square: Mean of the blocks' estimates, without bias: may be below 0.
        error: Its standard error, by the scatter between blocks.
        num_blocks: Blocks of consecutive updates, estimated each by itself.
        num_updates: In all blocks.
    """

    square: float
    error: float
    num_blocks: int
    num_updates: int

    @property
    def ratio(self) -> float:
        """The signal in units of the noise, at least 0."""
        return math.sqrt(max(self.square, 0.0))


def block_size(span: int) -> int:
    """Return the updates of a block of `signal`."""
    return span * max(1, _POOLED // span)


def signal(history: AlignmentHistory, *, span: int) -> Signal | None:
    """Return the signal of alignments that are averaged over ``span`` consecutive updates.

    That is what a rule sees that averages over so many; 1: each update by itself. In a block of
    such averages ``s`` and their standard errors ``se``, as `signal_to_noise` has it of one update
    and before its limit to 0,

        signal^2 = sum Var(s) / sum mean(se^2) - 1

    Args:
        history: Of the updates to judge. Those without a finite standard error of each domain are
            left out.
        span: At least 1.

    Returns:
        None if there are fewer than two blocks, or domains, or nothing is uncertain.
    """
    known = np.isfinite(history.standard_errors).all(axis=1)
    known &= np.isfinite(history.alignments).all(axis=1)
    dots, errors = history.alignments[known], history.standard_errors[known]
    size = block_size(span)
    number = len(dots) // size
    if number < 2 or dots.shape[1] < 2:
        return None
    shape = (number, size // span, span, dots.shape[1])
    means = dots[-number * size :].reshape(shape).mean(axis=2)
    variances = (errors[-number * size :].reshape(shape) ** 2).sum(axis=2) / span**2
    by_noise = variances.mean(axis=2).sum(axis=1)
    if not (by_noise > 0.0).all():
        return None
    squares = means.var(axis=2, ddof=1).sum(axis=1) / by_noise - 1.0
    error = float(squares.std(ddof=1)) / math.sqrt(number)
    return Signal(float(squares.mean()), error, number, number * size)


def persistent_signal(history: AlignmentHistory) -> float:
    """Return the `signal_to_noise` of the alignments' means over all updates, at least 0.

    Their standard errors are those of the scatter between updates, which every probe has.

    Args:
        history: Of at least two updates. A domain with a value that is not finite is left out.
    """
    finite = np.isfinite(history.alignments).all(axis=0)
    dots = history.alignments[:, finite]
    if dots.shape[1] < 2:
        return 0.0
    # What all domains have in common moves no weight.
    dots = dots - dots.mean(axis=1, keepdims=True)
    errors = dots.std(axis=0, ddof=1) / np.sqrt(len(dots))
    return signal_to_noise(dots.mean(axis=0), errors)


@final
@dataclass(frozen=True)
class Swing:
    """How weights move over some updates, in `total_variation`, the share of a batch.

    Attributes:
        change: Mean of it from one update to the next.
        reach: The largest from where they were at the beginning, or at the end, to any other.
        number: Of changes.
    """

    change: float
    reach: float
    number: int

    @property
    def turns(self) -> float:
        """How often they have gone over their reach, all changes together: 1 if straight."""
        return self.number * self.change / self.reach


def swing(weights: FloatArray) -> Swing | None:
    """Return how weights move.

    Args:
        weights: After successive updates, shape ``(N, K)``.

    Returns:
        None if there are none, or nothing has changed.
    """
    changes = np.abs(np.diff(weights, axis=0)).sum(axis=1) / 2.0
    if not changes.any():
        return None
    ends = (np.abs(weights - weights[end]).sum(axis=1).max() / 2.0 for end in (0, -1))
    return Swing(float(changes.mean()), float(max(ends)), len(changes))


@final
@dataclass(frozen=True)
class Overhead:
    """Cost of measuring over some updates, as shares of the time of training.

    Attributes:
        predicted: Mean of what was predicted.
        observed: All the time that measuring took, divided by all the time of training.
        error: Standard error of the mean difference between the two.
        number: Of updates.
    """

    predicted: float
    observed: float
    error: float
    number: int


def overhead(predicted: FloatArray, observed: FloatArray, probe_s: FloatArray) -> Overhead | None:
    """Return the cost of updates; None if it is known of fewer than two.

    Args:
        predicted: Share of each, shape ``(N,)``; NaN where unknown.
        observed: Likewise; noisy, may be below 0.
        probe_s: Seconds that each took, likewise.
    """
    known = np.isfinite(predicted) & np.isfinite(observed) & np.isfinite(probe_s)
    if (number := int(known.sum())) < 2:
        return None
    predicted, observed, probe_s = predicted[known], observed[known], probe_s[known]
    excess = observed - predicted
    timed = observed != 0.0
    share = float(observed.mean())
    if timed.any():  # an update's share is of the time of training since the one before
        share = float(probe_s[timed].sum() / (probe_s[timed] / observed[timed]).sum())
    error = float(excess.std(ddof=1) / math.sqrt(number))
    return Overhead(float(predicted.mean()), share, error, number)


def pace(series: Series) -> FloatArray:
    """Return by how much each value grows in a step, from the first row to the last.

    Args:
        series: At least two rows.
    """
    steps = int(series.steps[-1] - series.steps[0])
    rates: FloatArray = (series.values[-1] - series.values[0]) / steps
    return rates


def crossing(series: Series, name: str, value: float) -> int:
    """Return the first step at which a growing series has reached a value.

    Between rows by interpolation, rounded up; before the first row from 0 at step 0.

    Args:
        series: Without NaN for this name, its last value at least ``value``.
        name: Of the values.
        value: Above 0.
    """
    steps, values = np.append(0, series.steps), np.append(0.0, series.of(name))
    after = int(np.argmax(values >= value))
    share = (value - values[after - 1]) / (values[after] - values[after - 1])
    return int(np.ceil(steps[after - 1] + share * (steps[after] - steps[after - 1])))
