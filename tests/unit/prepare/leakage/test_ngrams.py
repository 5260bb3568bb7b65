from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.arrays import TokenArray
from megadga.prepare.leakage.ngrams import CHUNK_TOKENS, HeldOutNgrams, NgramMatches, hash_ngrams
from tests.support.examples import examples

EOD = 2


@dataclass
class Stream:
    """A stream in memory that notes how far it has been looked at."""

    content: TokenArray
    looked_at: list[int] = field(default_factory=list[int])

    @property
    def num_tokens(self) -> int:
        return self.content.size

    def tokens(self, start: int, stop: int) -> TokenArray:
        assert 0 <= start < stop <= self.content.size
        return self.content[start:stop]


def stream(*documents: list[int]) -> Stream:
    """A stream of documents, each ended by EOD."""
    return Stream(np.array([t for tokens in documents for t in (*tokens, EOD)], dtype=np.uint16))


def held_out(*documents: list[int], n: int) -> HeldOutNgrams:
    arrays = [np.array(tokens, dtype=np.uint16) for tokens in documents]
    return HeldOutNgrams(arrays, n=n, eod=EOD)


def find(ngrams: HeldOutNgrams, where: Stream) -> NgramMatches:
    return ngrams.find(where, where.looked_at.append)


def grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    """The n-grams without EOD, in order: slow and plainly right."""
    found = (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return [gram for gram in found if EOD not in gram]


# Few ids, so that n-grams do recur; EOD may stand anywhere in a foreign document.
documents = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=6)


@examples(4)
@given(held=documents, trained=documents, n=st.integers(1, 5))
def test_what_is_found_is_what_sets_of_tuples_share(held, trained, n):
    by_document = [set(grams(tokens, n)) for tokens in held]
    everything = set[tuple[int, ...]]().union(*by_document)
    where = stream(*trained)
    content = where.content.tolist()
    shared = everything & set(grams(content, n))

    ngrams = held_out(*held, n=n)
    found = find(ngrams, where)

    assert ngrams.num_documents == len(held)
    assert ngrams.num_short == sum(not of_document for of_document in by_document)
    assert ngrams.num_ngrams == len(everything)
    places = {tuple(content[p : p + n]): p for p in found.positions.tolist()}
    assert len(places) == found.ngrams.size
    assert places.keys() == shared
    assert all(
        position == next(i for i in range(len(content)) if tuple(content[i : i + n]) == gram)
        for gram, position in places.items()
    )
    documents, shares = ngrams.shares(found.ngrams)
    assert dict(zip(documents.tolist(), shares.tolist(), strict=True)) == {
        index: len(of_document & shared) / len(of_document)
        for index, of_document in enumerate(by_document)
        if of_document & shared
    }


@given(held=documents, trained=documents, n=st.integers(1, 5))
def test_a_match_is_the_first_in_the_document_of_which_most_is_found(held, trained, n):
    where = stream(*trained)
    content = where.content.tolist()
    shared = set(grams(content, n))
    shares = [
        len(set(grams(tokens, n)) & shared) / max(len(set(grams(tokens, n))), 1) for tokens in held
    ]

    ngrams = held_out(*held, n=n)
    match = ngrams.match(find(ngrams, where))

    if max(shares) == 0.0:
        assert match is None
        return
    assert match is not None
    tokens = held[match.document]
    assert match.document == shares.index(max(shares))
    assert match.offset == next(
        i for i in range(len(tokens)) if tuple(tokens[i : i + n]) in shared
    )
    assert match.tokens == tuple(tokens[match.offset : match.offset + n])
    assert match.tokens == tuple(content[match.position : match.position + n])


@pytest.mark.parametrize("distance", [-13, -12, -6, -1, 0, 1])
def test_an_ngram_across_two_chunks_is_found_where_it_is(distance):
    wanted = list(range(100, 113))
    content = np.zeros(2 * CHUNK_TOKENS + 5, dtype=np.uint16)
    position = CHUNK_TOKENS + distance
    content[position : position + 13] = wanted
    where = Stream(content)

    found = find(held_out(wanted, n=13), where)

    assert found.positions.tolist() == [position]
    assert sum(where.looked_at) == where.num_tokens


def test_an_ngram_that_fills_many_chunks_is_found_once_where_it_is_first():
    where = Stream(np.full(3 * CHUNK_TOKENS, 7, dtype=np.uint16))
    where.content[:5] = 8

    found = find(held_out([7, 7, 7], n=2), where)

    assert (found.ngrams.tolist(), found.positions.tolist()) == ([0], [5])


def test_a_stream_shorter_than_an_ngram_holds_none():
    where = stream([5, 6])

    assert find(held_out([5, 6, 7, 8], n=4), where).ngrams.tolist() == []
    assert where.looked_at == [3]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_the_type_on_disk_does_not_matter(dtype):
    where = Stream(np.array([9, 5, 6, 7, EOD], dtype=dtype))

    assert find(held_out([5, 6, 7], n=3), where).positions.tolist() == [1]


@given(
    tokens=st.lists(st.integers(0, 2**31 - 1), max_size=20),
    n=st.integers(1, 8),
)
def test_a_hash_depends_on_its_own_tokens_alone(tokens, n):
    array = np.array(tokens, dtype=np.int64)

    hashes = hash_ngrams(array, n)

    alone = [hash_ngrams(array[i : i + n], n)[0] for i in range(max(len(tokens) - n + 1, 0))]
    assert hashes.tolist() == [int(one) for one in alone]


def test_every_short_ngram_over_few_ids_has_a_hash_of_its_own():
    # All 6^6 orders of six ids: permutations, repetitions and zeros are told apart.
    tokens = np.array(np.unravel_index(np.arange(6**6), (6,) * 6)).T
    hashes = {int(hash_ngrams(row, 6)[0]) for row in tokens}
    assert len(hashes) == 6**6
