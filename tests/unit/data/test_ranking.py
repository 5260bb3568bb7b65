import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.ranking import divide_by_score, keep_by_score, perturb_scores


def test_the_highest_scores_are_kept_up_to_the_share_of_tokens():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    lengths = np.array([10, 10, 10, 10])
    # Middles, from the highest: 5, 15, 25 and 35 of 40 tokens.
    assert keep_by_score(scores, lengths, 0.5).tolist() == [False, True, False, True]
    assert keep_by_score(scores, lengths, 0.13).tolist() == [False, True, False, False]
    assert keep_by_score(scores, lengths, 1.0).all()


def test_a_long_document_counts_by_its_tokens():
    scores = np.array([3.0, 2.0, 1.0])
    # Middles: 5, 50 and 95 of 100 tokens.
    assert keep_by_score(scores, np.array([10, 80, 10]), 0.4).tolist() == [True, False, False]
    assert keep_by_score(scores, np.array([10, 80, 10]), 0.6).tolist() == [True, True, False]


def test_the_lowest_and_the_middle_can_be_kept_instead():
    scores, lengths = np.arange(5.0), np.full(5, 2)
    assert keep_by_score(scores, lengths, 0.4, "lowest").tolist() == [True] * 2 + [False] * 3
    kept = keep_by_score(scores, lengths, 0.6, "middle")
    assert kept.tolist() == [False, True, True, True, False]


def test_equal_scores_are_taken_in_the_order_of_the_documents():
    kept = keep_by_score(np.zeros(4), np.full(4, 5), 0.5)
    assert kept.tolist() == [True, True, False, False]


def test_tiers_have_equally_many_tokens_and_the_first_has_the_highest_scores():
    scores = np.array([1.0, 8.0, 3.0, 6.0, 5.0, 4.0, 7.0, 2.0])
    assert divide_by_score(scores, np.full(8, 3), 4).tolist() == [3, 0, 2, 1, 1, 2, 0, 3]


documents = st.lists(
    st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 1000)), min_size=1, max_size=40
)


@given(documents, st.integers(2, 5))
def test_no_document_of_a_tier_scores_below_one_of_the_next(found, number):
    scores, lengths = np.array(found).T
    tiers = divide_by_score(scores, lengths.astype(np.int64), number)
    assert ((tiers >= 0) & (tiers < number)).all()
    for tier in range(number - 1):
        above, below = scores[tiers <= tier], scores[tiers > tier]
        assert not above.size or not below.size or above.min() >= below.max()


@given(documents, st.floats(0.01, 1.0))
def test_a_share_is_met_within_half_a_document(found, share):
    scores, lengths = np.array(found).T
    lengths = lengths.astype(np.int64)
    kept = keep_by_score(scores, lengths, share)
    assert abs(lengths[kept].sum() - share * lengths.sum()) <= lengths.max() / 2 + 1e-6


@given(documents, st.randoms(use_true_random=False))
def test_the_order_of_documents_does_not_matter_where_scores_differ(found, random):
    by_score = list({score: (score, length) for score, length in found}.values())
    order = list(range(len(by_score)))
    random.shuffle(order)
    scores, lengths = np.array(by_score).T
    lengths = lengths.astype(np.int64)
    kept = keep_by_score(scores, lengths, 0.4)
    assert (keep_by_score(scores[order], lengths[order], 0.4) == kept[order]).all()


def test_sampled_keys_choose_in_proportion_to_the_exponential_of_scores():
    # Of 20,000 domains of three documents each: how often each has the highest key.
    scores = np.log(np.array([1.0, 2.0, 5.0])) * 2.0
    keys = [perturb_scores(scores, temperature=2.0, seed=7, domain=n) for n in range(20_000)]
    firsts = np.bincount(np.argmax(keys, axis=1), minlength=3) / 20_000
    # Four standard errors of a share of 20,000.
    assert firsts == pytest.approx([0.125, 0.25, 0.625], abs=4 * 0.5 / 20_000**0.5)


def test_after_the_first_the_second_is_drawn_from_the_others_in_proportion():
    scores = np.log(np.array([1.0, 2.0, 5.0]))
    keys = np.array(
        [perturb_scores(scores, temperature=1.0, seed=1, domain=n) for n in range(20_000)]
    )
    order = np.argsort(-keys, axis=1)
    seconds = np.bincount(order[order[:, 0] == 2, 1], minlength=3)
    assert seconds / seconds.sum() == pytest.approx([1 / 3, 2 / 3, 0], abs=0.02)


def test_a_document_keeps_its_number_when_others_follow():
    scores = np.linspace(0.0, 1.0, 10)
    few = perturb_scores(scores[:6], temperature=0.5, seed=3, domain=9)
    more = perturb_scores(scores, temperature=0.5, seed=3, domain=9)
    assert (more[:6] == few).all()
    assert np.isfinite(more).all()


def test_seeds_and_domains_have_numbers_of_their_own():
    zeros = np.zeros(100)
    found = {
        perturb_scores(zeros, temperature=1.0, seed=seed, domain=domain).tobytes()
        for seed, domain in [(0, 0), (1, 0), (0, 1), (2**64 - 1, 2**64 - 1)]
    }
    assert len(found) == 4


def test_a_low_temperature_keeps_the_order_of_the_scores():
    scores = np.array([0.3, 0.1, 0.2])
    keys = perturb_scores(scores, temperature=1e-6, seed=0, domain=0)
    assert np.argsort(keys).tolist() == [1, 2, 0]
