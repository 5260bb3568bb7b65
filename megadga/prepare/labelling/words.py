"""The words that tell a domain from the others.

Texts are cut into pieces, and a word counts once a piece: a name that one document repeats says
little about a domain. Words are ranked by the log-likelihood ratio of their pieces in the domain
and in the others (Dunning, "Accurate Methods for the Statistics of Surprise and Coincidence",
1993), a test of independence that holds for rare words, too: it needs no prior, with which a word
that occurs in one domain alone would rank below common ones.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.prepare.clustering.embedding import UNSPACED

NUM_BUCKETS = 1 << 22
"""Counts of all domains together, by a hash of the word: 32 MB, however many words there are."""
COMMON = 0.1
"""Share of the pieces of other domains above which a word says little about any: in English of
the, was, he, which would be distinctive of novels. It stands in for a list for each language."""
_WORD = re.compile(rf"[^\W\d_{UNSPACED}][^\W_{UNSPACED}]+")
_PAIR = re.compile(rf"(?=([{UNSPACED}]{{2}}))")
"""Of scripts without spaces two characters, most of the time a word of Chinese."""


_FIRST = re.compile(rf"\A[^\W_{UNSPACED}]+")
_LAST = re.compile(rf"[^\W_{UNSPACED}]+\Z")


@final
@dataclass(frozen=True, slots=True)
class WordCounts:
    """How many pieces of text there are, and how many of these hold each word."""

    num_pieces: int
    pieces_with: Mapping[str, int]


def find_words(text: str) -> set[str]:
    """Return the different words of a text, in lower case: letters and then digits, two at least.

    Of scripts that are written without spaces, each two characters side by side.
    """
    lower = text.lower()
    return {*_WORD.findall(lower), *_PAIR.findall(lower)}


def without_cut_words(text: str, *, begins: bool, ends: bool) -> str:
    """Return a part of a text without the words at its edges, which may be cut.

    Args:
        text: The part.
        begins: Whether the text begins with it.
        ends: Whether the text ends with it.
    """
    text = text if begins else _FIRST.sub("", text)
    return text if ends else _LAST.sub("", text)


def count_words(pieces: Iterable[str]) -> WordCounts:
    """Count the pieces, and those that hold each word."""
    number, counts = 0, Counter[str]()
    for piece in pieces:
        number += 1
        counts.update(find_words(piece))
    return WordCounts(number, counts)


def add_counts(parts: Sequence[WordCounts]) -> WordCounts:
    """Return the counts of several domains together."""
    counts = Counter[str]()
    for part in parts:
        counts.update(part.pieces_with)
    return WordCounts(sum(part.num_pieces for part in parts), counts)


def bucket_counts(counts: WordCounts) -> tuple[IntArray, IntArray]:
    """Return the buckets that words fall into, and the pieces of these words.

    Returns:
        Two arrays, of different buckets in ``[0, NUM_BUCKETS)`` and their counts.
    """
    buckets, inverse = np.unique(_buckets(counts.pieces_with), return_inverse=True)
    numbers = np.fromiter(counts.pieces_with.values(), np.int64, len(counts.pieces_with))
    sums = np.bincount(inverse.ravel(), weights=numbers, minlength=buckets.size)
    return buckets, sums.astype(np.int64)


def distinctive_words(
    own: WordCounts, everywhere: IntArray, num_pieces: int, *, limit: int
) -> tuple[str, ...]:
    """Return the words that are more frequent in a domain than in the others, the clearest first.

    Words that are common in the others are left out.

    Args:
        own: Of the domain.
        everywhere: Of all domains, its own among them: pieces by bucket, shape ``(NUM_BUCKETS,)``.
            Words that share a bucket seem more frequent elsewhere than they are.
        num_pieces: Pieces of all domains.
        limit: Words to return at most.
    """
    words = list(own.pieces_with)
    if not words or num_pieces <= own.num_pieces:
        return ()
    with_word = np.fromiter(own.pieces_with.values(), np.float64, len(words))
    elsewhere = everywhere[_buckets(own.pieces_with)] - with_word
    num_others = num_pieces - own.num_pieces
    scores = log_likelihood_ratio(with_word, own.num_pieces, elsewhere, num_others)
    scores[elsewhere > COMMON * num_others] = 0.0
    ranked = sorted(zip((-scores).tolist(), words, strict=True))
    return tuple(word for score, word in ranked[:limit] if score < 0.0)


def log_likelihood_ratio(
    own: FloatArray, num_own: int, others: FloatArray, num_others: int
) -> FloatArray:
    """Return Dunning's ``-2 log(lambda)`` of words in some pieces and in others.

    0 where a word is not more frequent in the first.

    Args:
        own: Pieces with each word, in ``[0, num_own]``, shape ``(W,)``.
        num_own: Pieces, at least 1.
        others: The same of the others, shape ``(W,)``; capped at their number.
        num_others: Other pieces, at least 1.
    """
    others = np.minimum(others, num_others)
    share = (own + others) / (num_own + num_others)
    ratio = 2.0 * (
        _binomial(own, num_own, own / num_own)
        + _binomial(others, num_others, others / num_others)
        - _binomial(own, num_own, share)
        - _binomial(others, num_others, share)
    )
    return np.where(own / num_own > others / num_others, np.maximum(ratio, 0.0), 0.0)


def _binomial(counts: FloatArray, number: int, share: FloatArray) -> FloatArray:
    """Return the log-likelihood of counts among a number, at a share; ``0 log 0`` is 0."""
    rest = number - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        present = np.where(counts > 0.0, counts * np.log(share), 0.0)
        absent = np.where(rest > 0.0, rest * np.log1p(-share), 0.0)
    return present + absent


def _buckets(words: Iterable[str]) -> IntArray:
    hashes = (zlib.crc32(word.encode()) % NUM_BUCKETS for word in words)
    return np.fromiter(hashes, dtype=np.int64)
