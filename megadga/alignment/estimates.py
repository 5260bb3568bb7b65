"""Alignments that are renewed a few domains at a time. Knows no model and no mixture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from megadga.alignment.statistics import SampledAlignments
from megadga.arrays import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Estimates:
    """The newest alignment of every domain, and how long ago it was measured.

    A training batch holds few of many domains, or each of them once. A domain that it does not
    hold keeps its value; one of which a batch with no domain twice holds a sequence keeps the
    variance of a sequence that its last value had.

    Attributes:
        dots: ``a_i`` as last measured, shape ``(K,)``; 0 for a domain that never was.
        standard_errors: Of ``dots`` when they were measured, shape ``(K,)``; infinite for a domain
            that never was, or of which no measurement ever had a domain twice.
        counts: Sequences that each was measured on, shape ``(K,)``.
        ages: Updates since, shape ``(K,)``; 0 for those of the newest update.
    """

    dots: FloatArray
    standard_errors: FloatArray
    counts: IntArray
    ages: IntArray

    def current_errors(self) -> FloatArray | None:
        """Return ``se_i * sqrt(1 + age_i)``, shape ``(K,)``; None unless all are finite.

        While the model trains an alignment moves. Its path is taken for a random walk that moves
        it in each update as far as it was uncertain when measured: variances of independent
        steps add up. The factor is a convention, not a measurement.

        Once every domain was measured, and some of them in one update on two sequences or more,
        all are finite and stay so. The first update measures every domain; after it one is still
        infinite only if each domain had a single sequence.
        """
        if not np.isfinite(self.standard_errors).all():
            return None
        return self.standard_errors * np.sqrt(1.0 + self.ages)

    def state(self) -> dict[str, FloatArray | IntArray]:
        """Return copies of the arrays by name, for a checkpoint."""
        return {
            "dots": self.dots.copy(),
            "standard_errors": self.standard_errors.copy(),
            "counts": self.counts.copy(),
            "ages": self.ages.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, FloatArray | IntArray]) -> Self:
        """Return the estimates that :meth:`state` was taken of, to the bit."""
        return cls(
            dots=state["dots"].astype(np.float64),
            standard_errors=state["standard_errors"].astype(np.float64),
            counts=state["counts"].astype(np.int64),
            ages=state["ages"].astype(np.int64),
        )


def unmeasured(num_domains: int) -> Estimates:
    """Return what is known of ``num_domains`` domains before the first update: nothing."""
    return Estimates(
        dots=np.zeros(num_domains),
        standard_errors=np.full(num_domains, np.inf),
        counts=np.zeros(num_domains, dtype=np.int64),
        ages=np.zeros(num_domains, dtype=np.int64),
    )


def renewed(estimates: Estimates, sampled: SampledAlignments) -> Estimates:
    """Return the estimates after an update: new where it measured, an update older elsewhere.

    A number that is not finite stays until its domain is measured again: to leave an update out,
    keep the estimates from before it.
    """
    measured = sampled.counts > 0
    errors = np.where(measured, sampled.standard_errors, estimates.standard_errors)
    alone = measured & np.isinf(sampled.standard_errors)  # then every domain has one sequence
    errors[alone] = (estimates.standard_errors * np.sqrt(estimates.counts.clip(min=1)))[alone]
    return Estimates(
        dots=np.where(measured, sampled.means, estimates.dots),
        standard_errors=errors,
        counts=np.where(measured, sampled.counts, estimates.counts),
        ages=np.where(measured, 0, estimates.ages + 1),
    )
