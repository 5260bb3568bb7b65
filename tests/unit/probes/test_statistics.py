import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.probes.statistics import SampledAlignments, domain_alignments

INF = math.inf


def sampled(derivatives, targets, domains, num_domains) -> SampledAlignments:
    return domain_alignments(
        np.array(derivatives, np.float64),
        np.array(targets, np.int64),
        np.array(domains, np.int64),
        num_domains,
    )


def exact_alignments(derivatives, targets, domains, num_domains):
    """The same in rational numbers, domain by domain; variances instead of standard errors."""
    means, variances, of_one, freedom = [], [], Fraction(0), 0
    for domain in range(num_domains):
        drawn = [
            (Fraction(d), Fraction(t))
            for d, t, i in zip(derivatives, targets, domains, strict=True)
            if i == domain
        ]
        count, total = len(drawn), sum(t for _, t in drawn)
        means.append(sum(d for d, _ in drawn) / total if count else Fraction(0))
        variances.append(None)
        if count > 1:
            squares = sum((t / total) ** 2 * (d / t - means[-1]) ** 2 for d, t in drawn)
            variances[-1] = Fraction(count, count - 1) * squares
            of_one += (count - 1) * count * variances[-1]
            freedom += count - 1
    counts = [list(domains).count(domain) for domain in range(num_domains)]
    for domain in range(num_domains):
        if counts[domain] == 1 and freedom:
            variances[domain] = of_one / freedom
    return means, variances, counts


@st.composite
def draws(draw):
    num_domains = draw(st.integers(1, 6))
    size = draw(st.integers(0, 20))
    derivatives = draw(st.lists(st.integers(-1000, 1000), min_size=size, max_size=size))
    targets = draw(st.lists(st.integers(1, 64), min_size=size, max_size=size))
    domains = draw(st.lists(st.integers(0, num_domains - 1), min_size=size, max_size=size))
    return derivatives, targets, domains, num_domains


@given(drawn=draws())
def test_it_equals_the_formula_in_rational_numbers(drawn):
    means, variances, counts = exact_alignments(*drawn)
    found = sampled(*drawn)
    expected = [INF if v is None else math.sqrt(v) for v in variances]
    # Of numbers up to 1000, a deviation is off by some roundings of 1000 * 2^-53 each.
    np.testing.assert_allclose(found.means, [float(mean) for mean in means], atol=1e-11)
    np.testing.assert_allclose(found.standard_errors, expected, rtol=1e-11, atol=1e-11)
    assert found.counts.tolist() == counts


def test_long_sequences_count_more():
    # Domain 0: 6 over 1 + 2 targets. Deviations 1 - 2 * 1 and 5 - 2 * 2, over 3, twice: 2 * 2/9.
    found = sampled([1, 5], [1, 2], [0, 0], 1)
    assert found.means.tolist() == [2.0]
    assert found.standard_errors.tolist() == pytest.approx([2 / 3], rel=1e-15)


def test_with_targets_of_one_length_it_is_the_usual_standard_error():
    derivatives = np.random.default_rng(0).normal(size=50)
    found = sampled(8 * derivatives, [8] * 50, [0] * 50, 1)
    assert found.means[0] == pytest.approx(derivatives.mean(), rel=1e-12)
    usual = derivatives.std(ddof=1) / math.sqrt(50)
    assert found.standard_errors[0] == pytest.approx(usual, rel=1e-12)


def test_a_single_sequence_is_as_uncertain_as_one_of_the_other_domains():
    # Variances of a sequence: 2 of domain 0 (1 degree of freedom), 1 of domain 1 (2): 4/3 pooled.
    found = sampled([0, 2, 0, 1, 2, 5], [1] * 6, [0, 0, 1, 1, 1, 2], 3)
    np.testing.assert_allclose(found.means, [1, 1, 5], rtol=1e-15)
    expected = np.sqrt([2 / 2, 1 / 3, 4 / 3])
    np.testing.assert_allclose(found.standard_errors, expected, rtol=1e-15)


def test_if_no_domain_has_two_sequences_nothing_is_known_of_the_noise():
    found = sampled([3, 4], [1, 2], [0, 2], 3)
    assert found.means.tolist() == [3.0, 0.0, 2.0]
    assert found.standard_errors.tolist() == [INF] * 3
    assert found.counts.tolist() == [1, 0, 1]


def test_a_domain_without_a_sequence_is_at_zero_and_unknown():
    found = sampled([0, 2], [1, 1], [0, 0], 2)
    assert (found.means[1], found.standard_errors[1], found.counts[1]) == (0.0, INF, 0)
    assert found.standard_errors[0] == 1.0


def test_a_derivative_that_is_not_finite_spoils_its_domain():
    found = sampled([math.nan, 1, 1], [1, 1, 1], [0, 1, 1], 2)
    assert math.isnan(found.means[0])
    assert (found.means[1], found.standard_errors[1]) == (1.0, 0.0)


def test_as_many_domains_as_there_are_clusters():
    num_domains = 262_144
    domains = np.repeat(np.arange(num_domains), 2)
    derivatives = np.tile([-1.0, 3.0], num_domains)
    found = domain_alignments(derivatives, np.full(domains.size, 2), domains, num_domains)
    assert (found.means == 0.5).all()
    assert (found.standard_errors == 1.0).all()  # of -1/2 and 3/2


def test_the_standard_error_is_the_spread_of_repeated_draws():
    random = np.random.default_rng(0)
    repeats, size = 4000, 30
    targets = random.integers(1, 10, repeats * size)
    derivatives = targets * random.normal(2.0, 1.0, targets.size)
    domains = np.repeat(np.arange(repeats), size)
    found = domain_alignments(derivatives, targets, domains, repeats)
    # Linearisation leaves out terms of order 1/size; a spread over 4000 is known to 1.1 %.
    spread = found.means.std(ddof=1)
    assert np.sqrt(np.mean(found.standard_errors**2)) == pytest.approx(spread, rel=0.05)
