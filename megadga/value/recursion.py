"""How a target's loss at the end depends on each sequence of each step: data value embedding.

Wang et al., "Capturing the Temporal Dependence of Training Data Influence", arXiv 2412.09538. A
step is ``w <- w - r sum_i g_i`` over the gradients of the batch's sequences. Leaving sequence
``i`` of step ``t`` out of that sum moves the weights at the end, to first order, by its *data
value embedding*

    e_i = r_t P_t g_i,    P_t = (I - r_T H_T) ... (I - r_(t+1) H_(t+1)),

and with the Gauss-Newton approximation ``H_s = sum_j g_j g_j^T`` over the batch of step ``s``,
``P_t = I - M_t`` follows from the last step backwards:

    e_i = r g_i - r M g_i,    M += sum_i e_i g_i^T.

The value of a sequence is the product of ``e_i`` with the gradient ``v`` of the target's loss at
the end: by how much that loss would be higher, in nats a token, had the sequence been left out.

What is computed here is ``v^T e_i`` for every sequence without ``M``. ``u_t = P_t^T v`` obeys

    v^T e_i = r u^T g_i,    u <- u - sum_i (v^T e_i) g_i,

the transposed recursion: the same numbers in ``p`` instead of ``p^2`` memory and, for each
sequence, time, with ``p`` the length of a gradient. So no blocks of ``H`` need to be left out:
the paper, and the library dattri, keep one ``M`` (dattri's code: over all layers together); with
``M`` layer by layer, products of gradients of different layers would be missing from ``H``. The
price is that the target has to be known, and another one is another pass over the trace.

Further differences: weights decay, by ``u <- kept u``; rates may differ between parameters (under
AdamW they do, see ``train.tracing``), as in ``P = I - R H`` with a diagonal ``R``. The paper
derives everything for SGD, and uses it for AdamW as it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.run_folder.trace import TracedStep

_STABLE = 2.0
"""Largest eigenvalue of ``R H`` up to which a step does not enlarge what comes before it."""


@final
@dataclass(frozen=True, eq=False)
class SequenceValues:
    """What every sequence of a run was worth.

    Attributes:
        values: Nats a token that the target's loss would be higher without it, shape ``(T, B)``.
        domains: Its domain, same shape.
        windows: Its window inside the domain, same shape.
        first_order: Its value if the steps after it did not depend on the weights: ``r v^T g``, as
            TracIn (arXiv 2002.08484) has it, but with the target's gradient at the end.
        unstable_steps: Steps at which the approximated curvature times the rate exceeds 2: the
            recursion grows there, and values of earlier steps are not to be trusted.
    """

    values: FloatArray
    domains: IntArray
    windows: IntArray
    first_order: FloatArray
    unstable_steps: tuple[int, ...]


def sequence_values(
    target: FloatArray,
    sizes: IntArray,
    steps: Iterable[tuple[TracedStep, ...]],
    *,
    num_steps: int,
    advance: Callable[[int], object] = lambda _: None,
) -> SequenceValues:
    """Return what every sequence was worth for a target's loss.

    Args:
        target: Projected gradient of the target's mean loss at the end, shape ``(p,)``.
        sizes: Numbers of each parameter in it, shape ``(P,)``.
        steps: Of each step, from the last to the first, what each rank has trained on.
        num_steps: Their number (T).
        advance: Called with the steps that are done.
    """
    after = target.astype(np.float64)
    found: list[tuple[FloatArray, FloatArray, IntArray, IntArray]] = []
    unstable: list[int] = []
    for ranks in steps:
        gradients = np.concatenate([each.gradients for each in ranks]).astype(np.float64)
        rates = np.repeat(ranks[0].rates, sizes)
        values = gradients @ (rates * after)
        found.append(
            (
                values,
                gradients @ (rates * target),
                np.concatenate([each.domains for each in ranks]),
                np.concatenate([each.windows for each in ranks]),
            )
        )
        if _grows(gradients, rates):
            unstable.append(ranks[0].step)
        after = ranks[0].kept * after - gradients.T @ values
        advance(1)
    if len(found) != num_steps:
        raise ValueError(f"steps: expected {num_steps}, found {len(found)}")
    values, first_order, domains, windows = (
        np.stack(rows[::-1]) for rows in zip(*found, strict=True)
    )
    return SequenceValues(values, domains, windows, first_order, tuple(sorted(unstable)))


def _grows(gradients: FloatArray, rates: FloatArray) -> bool:
    """Return whether the largest eigenvalue of ``R H`` exceeds 2; the others have the same sum."""
    scaled = gradients * np.sqrt(rates)
    if np.square(scaled).sum() <= _STABLE:
        return False
    return bool(np.linalg.norm(scaled, ord=2) ** 2 > _STABLE)
