"""Robust fits: Huber's loss, minimised by L-BFGS from several starting points."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.prepare.extras import import_extra

EXTRA = "laws"
"""The extra of the package that has what fits need."""
_MAX_ITERATIONS = 2000


def huber(residuals: FloatArray, delta: float) -> tuple[float, FloatArray]:
    """Return the sum of Huber's losses, and its gradient in the residuals.

    ``r^2 / 2`` up to ``delta``, ``delta (|r| - delta / 2)`` beyond: ``torch``'s ``huber_loss``
    with ``reduction="sum"``, as in the code of data mixing laws (arXiv 2403.16952).

    Args:
        residuals: Predicted minus observed, any shape.
        delta: Above 0, in their unit.
    """
    size = np.abs(residuals)
    losses = np.where(size <= delta, 0.5 * residuals**2, delta * (size - 0.5 * delta))
    return float(losses.sum()), np.clip(residuals, -delta, delta)


SetStarts = Callable[[FloatArray, int, tuple[int, int]], Sequence[FloatArray]]
"""From the losses of one set, shape ``(N,)``, a number of starts and the seed of their noise."""
SetFit = Callable[[FloatArray, Sequence[FloatArray]], FloatArray]
"""From the losses of one set and starts to the parameters of its law, shape ``(P,)``."""


def fit_sets(
    losses: FloatArray,
    fit: SetFit,
    starts: SetStarts,
    *,
    number: int,
    seed: int,
    near: FloatArray | None,
) -> FloatArray:
    """Return the parameters of each set's law, fitted by itself, shape ``(M, P)``.

    Args:
        losses: Nats per token, above 0, shape ``(N, M)``.
        fit: Of one set.
        starts: Likewise.
        number: Of starts, at least 1.
        seed: Of their noise.
        near: Parameters to start from, too, shape ``(M, P)``; then a single other start is made.
    """
    found: list[FloatArray] = []
    for index, column in enumerate(losses.T):
        begins = list(starts(column, number if near is None else 1, (seed, index)))
        if near is not None:
            begins.append(near[index])
        found.append(fit(column, begins))
    return np.stack(found)


Objective = Callable[[FloatArray], tuple[float, FloatArray]]
"""From parameters to a loss and its gradient."""


def minimise(
    objective: Objective,
    starts: Sequence[FloatArray],
    *,
    bounds: Sequence[tuple[float, float]],
) -> FloatArray:
    """Return the parameters of the lowest loss that L-BFGS finds from any start.

    SciPy's L-BFGS-B, whose line search (Moré and Thuente) ends where the strong Wolfe conditions
    hold, as that of the authors' ``torch.optim.LBFGS`` does.

    Args:
        objective: Smooth.
        starts: At least one, within the bounds.
        bounds: Of each parameter.
    """
    optimize: Any = import_extra("scipy.optimize", extra=EXTRA)
    options = {"maxiter": _MAX_ITERATIONS, "ftol": 1e-13, "gtol": 1e-9}
    results = [
        optimize.minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        for start in starts
    ]
    best = min(results, key=lambda each: float(each.fun))
    return np.asarray(best.x, dtype=np.float64)
