"""From derivatives of single sequences to alignments of domains, with standard errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from megadga.arrays import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class SampledAlignments:
    """Alignments estimated from sequences drawn from the domains.

    Attributes:
        means: ``a_i``, shape ``(K,)``; 0 for a domain without a sequence.
        standard_errors: Of ``means``, shape ``(K,)``; infinite for a domain without a sequence,
            and for all if no domain has two.
        counts: Sequences of each domain, shape ``(K,)``.
    """

    means: FloatArray
    standard_errors: FloatArray
    counts: IntArray


def domain_alignments(
    derivatives: FloatArray, targets: IntArray, domains: IntArray, num_domains: int
) -> SampledAlignments:
    """Return each domain's alignment per target and its standard error.

    The gradient of a domain is that of the mean loss over its targets, so its alignment is a ratio
    of sums, ``a_i = sum_s d_s / sum_s T_s``. Of its ``n`` sequences, with ``T_i = sum_s T_s``, the
    linearised variance of that ratio (Cochran, Sampling Techniques, 1977, section 6.3) is

        se_i^2 = n / (n - 1) * sum_s (T_s / T_i)^2 (d_s / T_s - a_i)^2

    which for equal ``T_s`` is the variance of ``d_s / T_s`` over ``n``. A domain's finite number
    of sequences is not corrected for. A single sequence shows no variance: it is given that of a
    sequence in the others, ``n se_i^2`` pooled by their ``n - 1`` degrees of freedom.

    Args:
        derivatives: ``d_s``, of the sum of sequence ``s``'s losses along the direction, shape
            ``(N,)``.
        targets: ``T_s``, targets of each that are tokens, at least 1, shape ``(N,)``.
        domains: Where each is from, in ``[0, num_domains)``, shape ``(N,)``.
        num_domains: ``K``.
    """
    counts = np.bincount(domains, minlength=num_domains)

    def sums(values: FloatArray) -> FloatArray:
        summed = np.bincount(domains, weights=values, minlength=num_domains)
        return summed.astype(np.float64)  # of no values at all, they are integers

    totals = np.maximum(sums(targets.astype(np.float64)), 1.0)  # 0 only where there is nothing
    means = sums(derivatives) / totals
    shares = (derivatives - means[domains] * targets) / totals[domains]
    of_one = counts**2 * sums(shares**2)  # (n - 1) n se^2: a sequence's variance, n - 1 times
    several = counts > 1
    variances = np.full(num_domains, np.inf)
    if several.any():
        variances[counts == 1] = of_one[several].sum() / (counts[several] - 1).sum()
        variances[several] = of_one[several] / (counts * (counts - 1))[several]
    return SampledAlignments(means, np.sqrt(variances), counts)


@dataclass(frozen=True, eq=False)
class Estimates:
    """The latest alignment of every domain and its age.

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
    """Return the estimates before the first update."""
    return Estimates(
        dots=np.zeros(num_domains),
        standard_errors=np.full(num_domains, np.inf),
        counts=np.zeros(num_domains, dtype=np.int64),
        ages=np.zeros(num_domains, dtype=np.int64),
    )


def updated_estimates(estimates: Estimates, sampled: SampledAlignments) -> Estimates:
    """Return the estimates after an update: new where measured, older elsewhere.

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
