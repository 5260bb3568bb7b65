"""What step size, interval and EMA do to DGA where the best mixture is known, in numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import Alignments, Observed
from megadga.mixers.dga import Dga
from megadga.mixers.safeguards import standard_deviation
from megadga.mixers.static import uniform_weights

from .convex import Bed, Disturb, descend

STEP_SIZES = (0.02, 0.063, 0.2, 0.63, 2.0)
INTERVALS = (1, 5, 20, 100)
EMAS = (0.03, 0.1, 0.3, 1.0)
NEAR = 0.05
"""Share of the best loss above it that counts as near."""
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Outcome:
    """How a setting ends; with noise, the median over the seeds of each number.

    Attributes:
        step_size: eta.
        interval: T_r.
        ema: beta.
        signal: Signal-to-noise of the first update; infinite without noise.
        near_from: Steps after which the target's loss stays near the best one; infinite: it does
            not.
        excess: The loss above the best, as a share of it, in the mean over the last tenth.
    """

    step_size: float
    interval: int
    ema: float
    signal: float
    near_from: float
    excess: float


def study(bed: Bed, signals: Sequence[float], num_steps: int) -> Iterator[Outcome]:
    """Yield the outcome of every setting, at each signal-to-noise."""
    for signal in signals:
        for interval in INTERVALS:
            for ema in EMAS:
                for step_size in STEP_SIZES:
                    yield outcome(bed, step_size, interval, ema, signal, num_steps=num_steps)


def outcome(
    bed: Bed, step_size: float, interval: int, ema: float, signal: float, *, num_steps: int
) -> Outcome:
    """Return how one setting ends after some optimizer steps, at least 10."""
    scheduler = Dga(uniform_weights(bed.best.size), step_size=step_size, ema=ema)
    found: list[tuple[float, float]] = []
    for seed in _SEEDS if np.isfinite(signal) else _SEEDS[:1]:
        run = descend(bed, scheduler, num_steps, interval, noise(bed, signal, seed))
        losses = np.array([bed.targets.losses(each.parameters)[0] for each in run])
        excess = losses / float(bed.targets.floors[0]) - 1.0
        found.append((_near_from(excess), float(excess[-(num_steps // 10) :].mean())))
    near_from, excess = (median(numbers) for numbers in zip(*found, strict=True))
    return Outcome(step_size, interval, ema, signal, near_from, excess)


def _near_from(excess: FloatArray) -> float:
    away = np.flatnonzero(excess >= NEAR)
    steps = 0 if away.size == 0 else int(away[-1]) + 1
    return steps if steps < excess.size else np.inf


def noise(bed: Bed, signal: float, seed: int) -> Disturb:
    """Return what adds to alignments the errors that estimates of the domains' gradients make.

    A domain's gradient is measured with an independent normal error of one variance in every
    direction, so that its alignment has one of standard deviation ``c |v|``. At the parameters
    where training begins, the alignments' own standard deviation is ``signal`` times that.
    """
    parameters = np.zeros(bed.domains.centres.shape[1])
    target = bed.targets.gradients(parameters)[0]
    first = standard_deviation(bed.domains.gradients(parameters) @ target)
    scale = first / (signal * float(np.linalg.norm(target)))

    def disturb(observed: Observed, step: int) -> Observed:
        assert isinstance(observed, Alignments)  # noqa: S101
        deviation = scale * observed.specific_squared_norm**0.5
        errors = np.random.default_rng((seed, step)).normal(size=observed.dots.size)
        return replace(observed, dots=observed.dots + deviation * errors)

    return disturb


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield outcomes of one signal-to-noise as lines of a Markdown table."""
    yield f"| T_r | β | {' | '.join(f'η = {size:g}' for size in STEP_SIZES)} |"
    yield "|---" * (2 + len(STEP_SIZES)) + "|"
    for interval in INTERVALS:
        for ema in EMAS:
            row = [each for each in outcomes if (each.interval, each.ema) == (interval, ema)]
            yield f"| {interval} | {ema:g} | {' | '.join(map(_cell, row))} |"


def _cell(each: Outcome) -> str:
    steps = "never" if np.isinf(each.near_from) else f"{each.near_from:.0f}"
    return f"{steps}, {100.0 * each.excess:.2g} %"
