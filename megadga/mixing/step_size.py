"""A step size that follows the scale of the scores. Knows no mixture."""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixing.signal import standard_deviation


@final
@dataclass(frozen=True)
class AutoStep:
    """The step size at which an update's exponents spread by a stated number.

    With the standard deviation over the domains, ``1/(K-1)``,

        eta = spread / std(scores)

    so that ``std(eta * scores) = spread`` whatever the model and the score: at 0.1, a domain whose
    score is a standard deviation above the mean gains about 10 % on the average domain. Equal
    scores, and a single domain, have no spread: ``eta = 0``.

    The price: an update moves as far when the scores differ by noise alone as when they differ by
    much, so give it a least signal; and its steps do not become smaller as the mixture becomes
    right.

    Attributes:
        spread: Standard deviation of an update's exponents, finite, at least 0.

    Raises:
        ValueError: If it is out of range.
    """

    spread: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.spread < np.inf:
            raise ValueError(f"spread: expected a finite number >= 0, found {self.spread}")

    def of(self, scores: FloatArray) -> float:
        """Return ``eta`` for these scores, finite ones of shape ``(K,)``."""
        deviation = standard_deviation(scores)
        if deviation == 0.0:
            return 0.0
        with np.errstate(over="ignore"):
            return float(np.minimum(np.float64(self.spread) / deviation, np.finfo(np.float64).max))
