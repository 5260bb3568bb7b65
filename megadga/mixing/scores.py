"""The score of each domain that enters an update's exponent. Knows no mixture and no step size.

The scale of the paper's raw alignments depends on the model and shrinks while it trains; the
others bound it. The price of the cosine: a domain that the model has memorised keeps its score,
and scores do not shrink with the specific gradient: the mixture ends circling its best value.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixing.scheduler import Alignments

ScoreName = Literal["raw", "cosine", "clipped"]


def raw(alignments: Alignments) -> FloatArray:
    """Return ``<g_i, v>`` as Algorithm 1 of arXiv 2410.02498 has it, shape ``(K,)``."""
    return alignments.dots


def cosine(alignments: Alignments) -> FloatArray:
    """Return ``<g_i, v> / (|g_i| |v|)``, in [-1, 1]; 0 where a gradient is 0."""
    # Not the root of the product: squares of large norms would overflow.
    norms = np.sqrt(alignments.squared_norms) * np.sqrt(alignments.specific_squared_norm)
    scores = np.zeros_like(alignments.dots)
    np.divide(alignments.dots, norms, out=scores, where=norms > 0.0)
    # Squares of norms below 1e-154 keep few digits, so rounding alone would not bound it.
    return np.clip(scores, -1.0, 1.0)


def clipped(alignments: Alignments) -> FloatArray:
    """Return ``<clip(g_i), clip(v)>`` where ``clip`` scales a gradient down to norm 1 if above.

    This is the rule of GRAPE's training code (the paper's authors' later work).
    """
    norms = np.maximum(np.sqrt(alignments.squared_norms), 1.0)
    return alignments.dots / norms / max(np.sqrt(alignments.specific_squared_norm), 1.0)


SCORES: Mapping[ScoreName, Callable[[Alignments], FloatArray]] = {
    "raw": raw,
    "cosine": cosine,
    "clipped": clipped,
}
