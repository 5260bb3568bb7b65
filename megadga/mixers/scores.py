"""From alignments to the exponent of a multiplicative update: scores and step sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Discriminator, Tag

from megadga.arrays import FloatArray
from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.safeguards import standard_deviation
from megadga.section import PositiveFloat, Section


@final
class AutoStep(Section):
    """A step size chosen for each update by how much its scores differ.

    With the standard deviation over the domains, ``1/(K-1)``,

        eta = spread / std(scores)

    so that ``std(eta * scores) = spread`` whatever the model and the score: at 0.1, a domain whose
    score is a standard deviation above the mean gains about 10 % on the average domain. Equal
    scores, and a single domain, have no spread: ``eta = 0``.

    The price: an update moves as far when the scores differ by noise alone as when they differ by
    much, so give it a least signal; and its steps do not become smaller as the mixture becomes
    right.
    """

    spread: PositiveFloat
    """Standard deviation of an update's exponents over the domains, above 0; at 0.1 a domain one
    standard deviation above the mean gains about 10 % on the average domain."""

    def for_scores(self, scores: FloatArray) -> float:
        """Return ``eta`` for these scores, finite ones of shape ``(K,)``."""
        deviation = standard_deviation(scores)
        if deviation == 0.0:
            return 0.0
        with np.errstate(over="ignore"):
            return float(np.minimum(np.float64(self.spread) / deviation, np.finfo(np.float64).max))


def _step_form(value: object) -> str:
    return "<spread>" if isinstance(value, AutoStep | Mapping) else "<fixed>"


StepSize = Annotated[
    Annotated[PositiveFloat, Tag("<fixed>")] | Annotated[AutoStep, Tag("<spread>")],
    Discriminator(_step_form),
]
"""A number above 0, or {spread: s}."""


ScoreName = Literal["raw", "cosine", "clipped", "adam"]


@final
@dataclass(frozen=True)
class Score:
    """Inner products, each divided by a length that is the domain's own.

    Attributes:
        needs: What it reads of alignments besides the inner products.
        scaled: Divides values in units of the inner products, shape ``(K,)``, by those lengths.
        bound: No score is larger, in absolute value.
    """

    needs: AlignmentNeeds
    scaled: Callable[[FloatArray, Alignments], FloatArray]
    bound: float = np.inf

    def of(self, alignments: Alignments) -> FloatArray:
        """Return every domain's score, shape ``(K,)``."""
        self._assert_fits(alignments)
        # Squares of norms below 1e-154 keep few digits, so rounding alone would not bound it.
        return np.clip(self.scaled(alignments.dots, alignments), -self.bound, self.bound)

    def standard_errors(self, alignments: Alignments) -> FloatArray | None:
        """Return the scores' standard errors with the lengths held, shape ``(K,)``.

        None if the alignments have none.
        """
        self._assert_fits(alignments)
        errors = alignments.standard_errors
        return None if errors is None else self.scaled(errors, alignments)

    def _assert_fits(self, alignments: Alignments) -> None:
        assert alignments.squared_norms is not None or not self.needs.norms
        # Not the other way round: before AdamW has moments, a run may measure along v itself.
        assert self.needs.preconditioned or not alignments.preconditioned


def _as_they_are(values: FloatArray, alignments: Alignments) -> FloatArray:  # noqa: ARG001
    return values


def _by_both_norms(values: FloatArray, alignments: Alignments) -> FloatArray:
    # Not the root of the product: squares of large norms would overflow.
    norms = _norms(alignments) * np.sqrt(alignments.specific_squared_norm)
    scores = np.zeros_like(values)
    np.divide(values, norms, out=scores, where=norms > 0.0)
    return scores


def _by_norms_above_one(values: FloatArray, alignments: Alignments) -> FloatArray:
    norms = np.maximum(_norms(alignments), 1.0)
    return values / norms / max(np.sqrt(alignments.specific_squared_norm), 1.0)


def _norms(alignments: Alignments) -> FloatArray:
    assert alignments.squared_norms is not None
    return np.sqrt(alignments.squared_norms)


RAW = Score(AlignmentNeeds(), _as_they_are)
"""``<g_i, v>`` as Algorithm 1 of arXiv 2410.02498 has it."""


COSINE = Score(AlignmentNeeds(norms=True), _by_both_norms, bound=1.0)
"""``<g_i, v> / (|g_i| |v|)``, in [-1, 1]; 0 where a gradient is 0."""


CLIPPED = Score(AlignmentNeeds(norms=True), _by_norms_above_one)
"""``<clip(g_i), clip(v)>`` where ``clip`` scales a gradient down to norm 1 if above: the rule of
GRAPE's training code (the paper's authors' later work)."""


ADAM = Score(AlignmentNeeds(preconditioned=True), _as_they_are)
"""``<g_i, P^-1 v>`` where ``P`` is what AdamW divides gradients by, element by element: the
first-order decrease of the specific loss per unit of learning rate."""


SCORES: Mapping[ScoreName, Score] = {
    "raw": RAW,
    "cosine": COSINE,
    "clipped": CLIPPED,
    "adam": ADAM,
}
