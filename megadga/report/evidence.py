"""Statistics of a run's history that advice rests on: noise, signal, swings, pace; pure numpy."""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.safeguards import signal_to_noise, total_variation
from megadga.report.alignments import AlignmentHistory
from megadga.report.runs import Series


def last(series: Series, number: int) -> Series:
    """Return the last ``number`` rows of a series, or all if there are fewer."""
    return Series(series.names, series.steps[-number:], series.values[-number:])


def noise(values: FloatArray) -> FloatArray:
    """Return the standard deviation of independent errors around smooth curves.

    By second differences, ``sqrt(mean (v_(t-1) - 2 v_t + v_(t+1))^2 / 6)``, which a straight line
    does not enter; what a curve bends makes the estimate larger.

    Args:
        values: Shape ``(N, K)``, ``N`` at least 3.

    Returns:
        Shape ``(K,)``; NaN where a value is.
    """
    second = np.diff(values, n=2, axis=0)
    deviations: FloatArray = np.sqrt(np.mean(second**2, axis=0) / 6.0)
    return deviations


@final
@dataclass(frozen=True)
class Signal:
    """How much more than by noise the alignments of domains differ, over some updates.

    Attributes:
        mean_square: Mean of the square of `signal_to_noise`, at least 0.
        error: Its standard error, by the scatter between means of ``span`` updates.
        number: Of such means.
        span: Updates that each is of.
    """

    mean_square: float
    error: float
    number: int
    span: int

    @property
    def ratio(self) -> float:
        """The signal, in units of the noise of a mean of ``span`` updates."""
        return float(np.sqrt(self.mean_square))


def signal(history: AlignmentHistory, *, span: int) -> Signal | None:
    """Return the signal of alignments that are averaged over ``span`` consecutive updates.

    That is what a rule sees that averages over so many; 1: each update by itself, as `min_signal`
    judges it. Ratios below 0 count as 0, which makes the mean too large rather than too small.

    Args:
        history: Of the updates to judge. Those without a finite standard error of each domain are
            left out.
        span: At least 1.

    Returns:
        None if there are fewer than two means, or domains.
    """
    known = np.isfinite(history.standard_errors).all(axis=1)
    known &= np.isfinite(history.alignments).all(axis=1)
    dots, errors = history.alignments[known], history.standard_errors[known]
    number = len(dots) // span
    if number < 2 or dots.shape[1] < 2:
        return None
    shape = (number, span, dots.shape[1])
    means = dots[-number * span :].reshape(shape).mean(axis=1)
    of_means = np.sqrt((errors[-number * span :].reshape(shape) ** 2).sum(axis=1)) / span
    squares = np.array([signal_to_noise(*pair) ** 2 for pair in zip(means, of_means, strict=True)])
    error = float(squares.std(ddof=1) / np.sqrt(number))
    return Signal(float(squares.mean()), error, number, span)


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
    """How weights move from one update to the next.

    Attributes:
        change: Mean `total_variation` between successive weights, in [0, 1].
        correlation: Lag-1 autocorrelation of the changes: near 1, weights go one way; 0 is a
            random walk; at -1/2 they scatter around where they were, at -1 they alternate.
        number: Of changes.
    """

    change: float
    correlation: float
    number: int


def swing(weights: FloatArray) -> Swing | None:
    """Return how weights move.

    Args:
        weights: After successive updates, shape ``(N, K)``.

    Returns:
        None if there are fewer than two changes, or nothing has changed.
    """
    changes = np.diff(weights, axis=0)
    squares = float((changes**2).sum())
    if len(changes) < 2 or squares == 0.0:
        return None
    # Over as many products as squares, so that a constant change has the correlation 1.
    products = float((changes[1:] * changes[:-1]).sum()) * len(changes) / (len(changes) - 1)
    moved = [total_variation(*pair) for pair in zip(weights[1:], weights[:-1], strict=True)]
    return Swing(float(np.mean(moved)), max(products / squares, -1.0), len(changes))


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
    error = float(excess.std(ddof=1) / np.sqrt(number))
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
