"""Values by domain and phase of a run, and the mixture that follows from them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.value.recursion import SequenceValues


@final
@dataclass(frozen=True, eq=False)
class PhaseValues:
    """Values of the domains in phases of a run of about equal length.

    Attributes:
        begins: Optimizer steps completed when each phase begins, shape ``(F,)``.
        totals: Sums of the values of a domain's sequences in a phase, shape ``(F, K)``.
        counts: Their number, same shape.
        errors: Standard errors of the means, same shape; NaN for fewer than two sequences.
    """

    begins: IntArray
    totals: FloatArray
    counts: IntArray
    errors: FloatArray

    @property
    def means(self) -> FloatArray:
        """Mean value of a domain's sequences in a phase; NaN without any, shape ``(F, K)``."""
        return np.divide(
            self.totals,
            self.counts,
            out=np.full(self.totals.shape, np.nan),
            where=self.counts > 0,
        )

    @property
    def shares(self) -> FloatArray:
        """Share of a phase's sequences that each domain had, shape ``(F, K)``."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)


def values_by_phase(found: SequenceValues, *, num_phases: int, num_domains: int) -> PhaseValues:
    """Sum the values of each domain over each phase.

    Args:
        found: Of ``T`` steps.
        num_phases: At most ``T``.
        num_domains: Number of domains (K).

    Raises:
        ValueError: If there are more phases than steps.
    """
    num_steps = len(found.values)
    if not 1 <= num_phases <= num_steps:
        raise ValueError(f"num_phases: expected 1 to {num_steps}, found {num_phases}")
    bounds = np.linspace(0, num_steps, num_phases + 1).round().astype(np.int64)
    totals, squares, counts = (np.zeros((num_phases, num_domains)) for _ in range(3))
    for phase, (begin, end) in enumerate(pairwise(bounds.tolist())):
        domains = found.domains[begin:end].ravel()
        values = found.values[begin:end].ravel()
        counts[phase] = np.bincount(domains, minlength=num_domains)
        totals[phase] = np.bincount(domains, weights=values, minlength=num_domains)
        squares[phase] = np.bincount(domains, weights=values**2, minlength=num_domains)
    several = counts > 1
    number = np.where(several, counts, 2.0)
    variance = np.maximum(squares - totals**2 / number, 0.0) / (number - 1.0)
    errors = np.where(several, np.sqrt(variance / number), np.nan)
    return PhaseValues(bounds[:-1], totals, counts.astype(np.int64), errors)


def scheduled_weights(found: PhaseValues, *, strength: float) -> FloatArray:
    """Return a mixture for each phase, which gives more to what was worth more in it.

    A step of mirror descent from the mixture that the phase had, along the mean values, which are
    scaled to a standard deviation of 1 over the phase's domains, weighted by their shares: the
    scale of values differs by orders of magnitude between phases.

        weight = share * exp(strength * (mean - average) / deviation), normalised

    A domain that was not drawn in a phase has no value there, and gets no weight.

    Args:
        found: Of ``F`` phases and ``K`` domains.
        strength: 0: the mixture of the run; 1: a domain whose values are one deviation above
            the average gets ``e`` times its share.

    Returns:
        Distributions, shape ``(F, K)``.
    """
    shares = found.shares
    means = np.nan_to_num(found.means)
    centred = means - (shares * means).sum(axis=1, keepdims=True)
    deviations = np.sqrt((shares * centred**2).sum(axis=1, keepdims=True))
    scaled = np.divide(centred, deviations, out=np.zeros_like(centred), where=deviations > 0.0)
    # From the largest that has a share: others may be infinitely far above it.
    exponents = np.where(shares > 0.0, strength * scaled, -np.inf)
    weights = shares * np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
