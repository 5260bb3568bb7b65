"""Weights by token frequencies: against numbers worked by hand, planted mixtures, and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from megadga.mixers.base import Mixtures
from megadga.mixers.matching import (
    TokenCounts,
    count_tokens,
    match_frequencies,
    matched_weights,
)
from tests.support.shards import open_dialogues, open_sets, open_unequal, write_sets


def sample(counts: list[int]) -> TokenCounts:
    """Return counts of the tokens 0, 1, ..."""
    found = np.array(counts)
    return TokenCounts(np.flatnonzero(found), found[found > 0])


def divergence(weights, frequencies, wanted) -> float:
    """Return KL(wanted || weights @ frequencies)."""
    seen = wanted > 0.0
    mixed = (weights @ frequencies)[seen]
    return float((wanted[seen] * np.log(wanted[seen] / mixed)).sum())


def drawn(seed: int, *, domains: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(tokens, 0.3), size=domains)


def test_disjoint_domains_get_what_the_specific_set_has_of_their_tokens():
    samples = [sample([6, 4, 0, 0]), sample([0, 0, 5, 0]), sample([0, 0, 0, 9])]
    weights = match_frequencies(samples, np.array([0.4, 0.1, 0.3, 0.2]))
    assert_allclose(weights, [0.5, 0.3, 0.2], rtol=1e-12)


def test_a_planted_mixture_is_found():
    frequencies = drawn(0, domains=6, tokens=200)
    planted = np.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])
    counts = np.rint(frequencies * 1e9).astype(np.int64)
    weights = match_frequencies([sample(list(row)) for row in counts], planted @ frequencies)
    assert 0.5 * np.abs(weights - planted).sum() < 0.02


@given(seed=st.integers(0, 2**32 - 1), domains=st.integers(1, 6))
def test_the_divergence_is_the_least_that_scipy_finds_within_the_tolerance(seed, domains):
    frequencies = drawn(seed, domains=domains, tokens=20)
    counts = np.rint(frequencies * 1e9).astype(np.int64) + 2  # no token is unseen or seen once
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    wanted = drawn(seed + 1, domains=1, tokens=20)[0]

    weights = match_frequencies([sample(list(row)) for row in counts], wanted)

    assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    assert (weights >= 0.0).all()
    best = minimize(
        lambda logits: divergence(np.exp(logits) / np.exp(logits).sum(), frequencies, wanted),
        np.zeros(domains),
    )
    assert divergence(weights, frequencies, wanted) <= best.fun + 1.1e-4


def test_weights_move_with_the_order_of_the_domains():
    counts = np.random.default_rng(3).poisson(4.0, size=(5, 30))
    wanted = np.full(30, 1 / 30)
    order = np.array([3, 0, 4, 2, 1])
    straight = match_frequencies([sample(list(row)) for row in counts], wanted)
    moved = match_frequencies([sample(list(counts[index])) for index in order], wanted)
    assert_allclose(moved, straight[order], rtol=1e-9)


def test_domains_that_are_equal_get_equal_weights():
    counts = [5, 3, 1, 1]
    weights = match_frequencies([sample(counts)] * 4, np.array([0.1, 0.2, 0.3, 0.4]))
    assert_allclose(weights, [0.25] * 4, rtol=1e-12)


def test_a_small_sample_is_smoothed_by_what_it_lacks():
    # Of domain 0's four tokens two occur once: half of its text is unseen, by estimate, and has
    # the frequencies of both samples, so token 3 tells little against it.
    few, many = sample([2, 1, 1, 0]), sample([25, 25, 25, 25])
    assert few.unseen_mass == 0.5
    pooled = (np.array([0.5, 0.25, 0.25, 0.0]) + 0.25) / 2
    smoothed = 0.5 * np.array([0.5, 0.25, 0.25, 0.0]) + 0.5 * pooled
    frequencies = np.array([smoothed, np.full(4, 0.25)])
    wanted = 0.7 * smoothed + 0.3 * 0.25

    weights = match_frequencies([few, many], wanted)

    assert divergence(weights, frequencies, wanted) <= 1e-4
    assert_allclose(weights, [0.7, 0.3], atol=0.05)


def test_tokens_that_no_domain_has_tell_nothing():
    samples = [sample([8, 2]), sample([2, 8])]
    known = match_frequencies(samples, np.array([0.6, 0.4]))
    assert_array_equal(match_frequencies(samples, np.array([0.3, 0.2, 0.0, 0.5])), known)
    assert_array_equal(match_frequencies(samples, np.array([0.0, 0.0, 1.0])), [0.5, 0.5])


def test_distributions_over_domains_are_weighted_in_their_place():
    samples = [sample([4, 0, 0]), sample([0, 4, 0]), sample([0, 0, 4])]
    mixtures = Mixtures(
        ("qa", "code"), 3, np.array([0, 2, 3]), np.array([0, 1, 2]), np.array([0.5, 0.5, 1.0])
    )
    weights = match_frequencies(samples, np.array([0.3, 0.3, 0.4]), mixtures)
    assert_allclose(weights, [0.6, 0.4], rtol=1e-12)


def test_trained_targets_are_counted(tmp_path):
    root = write_sets(tmp_path, num_domains=1)
    (domain,), _ = open_sets(root)
    for sequences in (domain, open_unequal(root), open_dialogues(root)):
        windows = sequences.windows(np.arange(sequences.num_sequences))
        found = count_tokens(sequences, 10**9)
        expected = np.bincount(windows[:, 1:][windows[:, 1:] >= 0])
        assert_array_equal(found.ids, np.flatnonzero(expected))
        assert_array_equal(found.counts, expected[expected > 0])


def test_a_part_of_a_set_is_spread_evenly_over_it(tmp_path):
    (domain,), _ = open_sets(write_sets(tmp_path, num_domains=1))
    assert domain.num_sequences >= 4
    half = domain.num_sequences // 2
    found = count_tokens(domain, half * domain.sequence_length)
    taken = domain.windows(np.arange(half) * domain.num_sequences // half)[:, 1:]
    assert found.counts.sum() == taken.size
    assert_array_equal(found.ids, np.unique(taken))
    assert count_tokens(domain, 1).counts.sum() == domain.sequence_length


def test_weights_of_shards_favour_the_domain_that_the_specific_set_resembles(tmp_path):
    domains, specific = open_sets(write_sets(tmp_path, num_domains=3))
    weights = matched_weights(domains, [specific], uniform_share=0.0)
    assert int(weights.argmax()) == 1
    mixed = matched_weights(domains, [specific])
    assert_allclose(mixed, 0.95 * weights + 0.05 / 3, rtol=1e-12)
    assert_array_equal(matched_weights(domains, [specific], uniform_share=1.0), [1 / 3] * 3)


def test_several_sets_count_by_importance(tmp_path):
    domains, specific = open_sets(write_sets(tmp_path, num_domains=3))
    sets = [domains[0], specific]
    first = matched_weights(domains, sets, uniform_share=0.0, importance=np.array([1e9, 1.0]))
    second = matched_weights(domains, sets, uniform_share=0.0, importance=np.array([1.0, 1e9]))
    assert (int(first.argmax()), int(second.argmax())) == (0, 1)


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    domains, specific = open_sets(write_sets(tmp_path, num_domains=2))
    with pytest.raises(ValueError, match=r"uniform_share: expected 0 <= uniform_share <= 1"):
        matched_weights(domains, [specific], uniform_share=share)
    with pytest.raises(ValueError, match=r"specific: expected at least one set, found none"):
        matched_weights(domains, [])
