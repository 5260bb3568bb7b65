from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.reading.documents import PRIORITIES, priorities, sample_texts, subsample


def numbered(count: int) -> list[str]:
    return [f"{number:04d}" for number in range(count)]


def test_priorities_are_addressed_by_seed_and_number():
    found = list(islice(priorities(7), 2 * PRIORITIES + 3))
    assert found[PRIORITIES + 2] == np.random.default_rng((7, 1)).random(3)[2]
    assert len(set(found)) == len(found)
    assert 0 <= min(found) <= max(found) < 1


def test_a_sample_has_the_texts_of_lowest_priority_in_order():
    ranks = np.argsort(list(islice(priorities(3), 1000)))[:50]
    sample = sample_texts(numbered(1000), max_characters=4 * 50, seed=3)
    assert list(sample.texts) == [f"{number:04d}" for number in sorted(ranks)]
    assert sample.num_characters == 4000


def test_where_a_text_stands_does_not_matter_to_its_chance():
    chosen = np.zeros(20, dtype=np.int64)
    for seed in range(2000):
        for text in sample_texts(numbered(20), max_characters=4 * 5, seed=seed).texts:
            chosen[int(text)] += 1
    deviation = np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(chosen - 2000 * 0.25).max() < 4 * deviation


@given(st.lists(st.text(max_size=9)), st.integers(0, 30), st.integers(0, 9))
def test_a_sample_fits_or_is_one_text(texts, max_characters, seed):
    sample = sample_texts(iter(texts), max_characters=max_characters, seed=seed)
    assert sum(map(len, sample.texts)) <= max_characters or len(sample.texts) == 1
    assert sample.num_characters == sum(map(len, texts))
    if sum(map(len, texts)) <= max_characters:
        assert list(sample.texts) == texts


@pytest.mark.parametrize(
    ("fraction", "least", "most"), [(0, 0, 0), (0.3, 250, 350), (1, 1000, 1000)]
)
def test_thinning_keeps_a_fraction_in_order(fraction, least, most):
    kept = list(subsample(numbered(1000), fraction=fraction, seed=1))
    assert kept == sorted(kept)
    assert least <= len(kept) <= most


def test_a_larger_fraction_keeps_what_a_smaller_one_keeps():
    small, large = (set(subsample(numbered(500), fraction=part, seed=1)) for part in (0.2, 0.6))
    assert small < large
