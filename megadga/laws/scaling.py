"""Laws of steps and sizes: power laws of several curves, one exponent (arXiv 2403.16952)."""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.laws.fitting import huber, minimise

STEP_DELTA, SIZE_DELTA = 0.05, 0.08
"""Huber's delta in nats, as in the paper's code: ``steplaw.py`` and ``sizelaw.py``."""
LEAST_POINTS = 3
"""Of a curve: it has a floor, a scale and a part of the exponent."""
_EXPONENTS = np.linspace(0.05, 2.0, 40)
_LOGS = (-12.0, 8.0)


@final
@dataclass(frozen=True, eq=False)
class TiedPowerLaws:
    """``L_i(x) = exp(c_i) + (x0_i / x)^alpha`` for ``C`` curves, with one ``alpha``.

    ``x`` is the tokens of training, or the parameters of a model without its embedding.

    Attributes:
        floors: ``exp(c)``, nats per token, above 0, shape ``(C,)``.
        log_origins: ``log x0``, where the reducible loss is 1, shape ``(C,)``.
        exponent: ``alpha``, in ``[0.05, 2]``.
    """

    floors: FloatArray
    log_origins: FloatArray
    exponent: float

    def predict(self, x: float) -> FloatArray:
        """Return the losses at ``x > 0``, shape ``(C,)``."""
        return self.floors + np.exp(self.exponent * (self.log_origins - np.log(x)))


def fit_tied(x: FloatArray, losses: FloatArray, *, delta: float) -> TiedPowerLaws:
    """Fit the laws with Huber's loss.

    The paper's code starts from grids of the origin and of ``alpha`` in [0.3, 0.9] with random
    floors. Given ``alpha``, floor and scale of a curve are linear: here they start from least
    squares at every ``alpha`` of a grid, and the best few of these are refined by L-BFGS.

    Args:
        x: Above 0, ascending, shape ``(P,)``, at least ``LEAST_POINTS``.
        losses: Above 0, shape ``(P, C)``.
        delta: Of Huber's loss, above 0.

    Raises:
        ValueError: If there are too few points.
    """
    if x.size < LEAST_POINTS:
        raise ValueError(f"x: expected at least {LEAST_POINTS} points, found {x.size}")
    centre = float(np.log(x).mean())
    positions = (np.log(x) - centre)[:, None]
    count = losses.shape[1]

    def objective(parameters: FloatArray) -> tuple[float, FloatArray]:
        floors = np.exp(parameters[:count])
        reducible = np.exp(parameters[count:-1] - parameters[-1] * positions)
        loss, slope = huber(floors + reducible - losses, delta)
        by_scale = slope * reducible
        gradient = [slope.sum(axis=0) * floors, by_scale.sum(axis=0)]
        return loss, np.concatenate([*gradient, [-(by_scale * positions).sum()]])

    starts = [_start(positions, losses, exponent) for exponent in _EXPONENTS.tolist()]
    starts.sort(key=lambda start: objective(start)[0])
    bounds = [*[_LOGS] * (2 * count), (float(_EXPONENTS[0]), float(_EXPONENTS[-1]))]
    found = minimise(objective, starts[:4], bounds=bounds)
    exponent = float(found[-1])
    return TiedPowerLaws(
        floors=np.exp(found[:count]),
        log_origins=centre + found[count:-1] / exponent,
        exponent=exponent,
    )


def _start(positions: FloatArray, losses: FloatArray, exponent: float) -> FloatArray:
    """Return log floors, log scales and the exponent, by least squares for each curve."""
    powers = np.exp(-exponent * positions[:, 0])
    design = np.stack([np.ones_like(powers), powers], axis=1)
    floors, scales = np.linalg.lstsq(design, losses, rcond=None)[0]
    lowest = losses.min(axis=0)
    floors = np.clip(floors, 1e-3 * lowest, 0.999 * lowest)
    # Where the floor was out of range, the scale follows from it.
    scales = np.where(scales > 0.0, powers @ (losses - floors) / (powers @ powers), 1e-3)
    logs = np.log(np.concatenate([floors, np.maximum(scales, 1e-5)]))
    return np.append(np.clip(logs, *_LOGS), exponent)
