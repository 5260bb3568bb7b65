"""From derivatives of single sequences to alignments of domains. Knows no model and no mixture."""

from dataclasses import dataclass

import numpy as np

from megadga.arrays import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class SampledAlignments:
    """What sequences drawn from the domains say of each.

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
    """Return each domain's alignment per target, and how far the draw may have put it off.

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
