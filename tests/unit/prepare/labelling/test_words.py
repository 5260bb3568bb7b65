from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from megadga.prepare.labelling.words import (
    NUM_BUCKETS,
    WordCounts,
    add_counts,
    bucket_counts,
    count_words,
    distinctive_words,
    find_words,
    log_likelihood_ratio,
    without_cut_words,
)


def ranked(own: WordCounts, *others: WordCounts, limit: int = 10) -> tuple[str, ...]:
    everywhere = np.zeros(NUM_BUCKETS, dtype=np.int64)
    every = add_counts([own, *others])
    buckets, counts = bucket_counts(every)
    everywhere[buckets] += counts
    return distinctive_words(own, everywhere, every.num_pieces, limit=limit)


def test_words_are_letters_and_then_digits_in_lower_case():
    assert find_words("The cell_wall, 17 x2 of B-12: été; a") == {
        "the", "cell", "wall", "x2", "of", "été",
    }  # fmt: skip


def test_scripts_without_spaces_are_read_two_characters_at_a_time():
    assert find_words("机器学习 and ML") == {"机器", "器学", "学习", "and", "ml"}


@pytest.mark.parametrize(
    ("begins", "ends", "expected"),
    [
        (True, True, "ation of a wor"),
        (False, True, " of a wor"),
        (True, False, "ation of a "),
        (False, False, " of a "),
    ],
)
def test_words_that_may_be_cut_are_left_out(begins, ends, expected):
    assert without_cut_words("ation of a wor", begins=begins, ends=ends) == expected


def test_a_word_counts_once_in_a_piece():
    counts = count_words(["sea sea sea", "sea ship", "law"])
    assert counts == WordCounts(3, {"sea": 2, "ship": 1, "law": 1})


def test_words_in_one_bucket_are_counted_together():
    # 'plumless' and 'buckeroo' have the same CRC-32.
    buckets, counts = bucket_counts(WordCounts(5, {"plumless": 2, "sea": 4, "buckeroo": 3}))
    assert sorted(counts.tolist()) == [4, 5]
    assert len(set(buckets.tolist())) == 2


@pytest.mark.parametrize(("own", "others"), [(40, 80), (10, 1), (3, 0), (50, 7)])
def test_the_score_is_the_log_likelihood_ratio_of_a_table_of_two_by_two(own, others):
    table = [[own, 50 - own], [others, 1000 - others]]
    found: Any = chi2_contingency(table, correction=False, lambda_="log-likelihood")
    expected = found.statistic
    found = log_likelihood_ratio(np.array([float(own)]), 50, np.array([float(others)]), 1000)
    np.testing.assert_allclose(found, [expected], rtol=1e-9)


def test_words_that_are_rarer_in_a_domain_do_not_tell_what_it_is():
    found = log_likelihood_ratio(np.array([1.0, 0.0]), 50, np.array([500.0, 400.0]), 1000)
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_words_of_a_domain_come_before_words_of_all():
    own = WordCounts(100, {"the": 90, "of": 80, "cell": 60, "gene": 20})
    others = WordCounts(900, {"the": 630, "of": 540, "cell": 9, "ship": 300})
    assert ranked(own, others) == ("cell", "gene")


def test_a_name_that_one_document_repeats_is_no_label():
    pieces = ["ishmael " * 50, *(["sail the ship"] * 9)]
    others = count_words(["read the law"] * 90)
    assert ranked(count_words(pieces), others, limit=2) == ("sail", "ship")


def test_equal_words_are_in_alphabetical_order():
    own, others = WordCounts(4, {"b": 4, "a": 4}), WordCounts(4, {"c": 4})
    assert ranked(own, others) == ("a", "b")
    assert ranked(own, others, limit=1) == ("a",)


def test_domains_that_nothing_tells_apart_have_no_words():
    same = WordCounts(4, {"a": 2, "b": 4})
    assert ranked(same, same) == ()
    assert ranked(same) == ()
    assert ranked(WordCounts(0, {}), same) == ()
