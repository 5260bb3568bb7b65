"""When domains run out: the step at which an epoch of each ends."""

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.order import WindowOrder


def exhaustion_steps(
    epochs: FloatArray,
    windows: FloatArray,
    rates: FloatArray,
    *,
    step: int,
    passes: float = 1.0,
) -> FloatArray:
    """Return the step by which each domain will have been read so often, at constant rates.

    Args:
        epochs: Passes over each domain so far, at least 0, shape ``(K,)``.
        windows: Windows of each, at least 1, shape ``(K,)``.
        rates: Windows of each that an optimizer step draws in the mean, that is ``B`` times the
            averaged weights, at least 0, shape ``(K,)``.
        step: Optimizer steps completed.
        passes: How often; 1: the end of the first epoch.

    Returns:
        Whole numbers above ``step``; ``step`` for domains that have been; infinity for those that
        are not drawn. Shape ``(K,)``.
    """
    left = np.maximum(passes - epochs, 0.0) * windows
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(left / rates)
    return step + np.where(left > 0.0, steps, 0.0)


def ended_first_epochs(order: WindowOrder, cursors: IntArray, drawn: IntArray) -> IntArray:
    """Return the domains whose first epoch a batch has ended, ascending.

    Args:
        order: Of the domains' windows.
        cursors: Windows drawn from each domain, those of the batch included, shape ``(K,)``.
        drawn: Domain of each sequence of the batch, shape ``(B,)``.
    """
    domains, counts = np.unique(drawn, return_counts=True)
    # Negative for domains that were past their first epoch when domains were revised.
    ends = order.starts[domains] + (1 - order.first_epochs[domains]) * order.sizes[domains]
    after = cursors[domains]
    return domains[(after - counts < ends) & (ends <= after)]
