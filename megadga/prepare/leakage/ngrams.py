"""Searches a token stream for the n-grams of a held-out set.

An n-gram is ``n`` consecutive tokens of one document without EOD. N-grams are compared by 64-bit
hashes: the expected number of false matches of ``m`` n-grams in ``N`` tokens is ``m N / 2^64``,
0.05 for 10^6 n-grams in 10^12 tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray, TokenArray
from megadga.data.permutation import GOLDEN, KeyArray, mix

CHUNK_TOKENS = 1 << 16
"""Tokens of a stream processed at once, so that their hashes fit into the processor's cache."""

_FILTER_BITS = (16, 26)
"""Minimum and maximum bits of the hash prefix filter: 64 kB to 64 MB."""


class TokenSource(Protocol):
    """A stream of the concatenated tokens of documents."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the stream."""
        ...

    def tokens(self, start: int, stop: int) -> TokenArray:
        """Return tokens ``[start, stop)``; of a range in ``[0, num_tokens]`` that is not empty."""
        ...


@dataclass(frozen=True, eq=False)
class NgramMatches:
    """N-grams found in a stream.

    Attributes:
        ngrams: Their indices, ascending, in ``[0, num_ngrams)``, shape ``(f,)``.
        positions: Position of the first occurrence of each in the stream, shape ``(f,)``.
    """

    ngrams: IntArray
    positions: IntArray


@dataclass(frozen=True)
class Match:
    """An example of a matching n-gram.

    Attributes:
        document: Of the held-out set, from 0.
        offset: Tokens before the n-gram in that document.
        position: Tokens before the n-gram in the stream.
        tokens: The ids, ``n`` of them.
    """

    document: int
    offset: int
    position: int
    tokens: tuple[int, ...]


@final
class HeldOutNgrams:
    """The distinct n-grams of a held-out set, held in memory.

    Args:
        documents: Ids of each, shape ``(tokens,)``; at least one document.
        n: Tokens of an n-gram, at least 1.
        eod: The id that ends documents; no n-gram holds it.

    Attributes:
        n: Tokens of an n-gram.
        num_documents: Documents.
        num_short: Documents without any n-gram, which cannot be checked.
        num_ngrams: Distinct n-grams of all documents.
    """

    def __init__(self, documents: Sequence[TokenArray], *, n: int, eod: int) -> None:
        self.n = n
        self.num_documents = len(documents)
        self._tokens = np.concatenate(documents)
        lengths = np.array([document.size for document in documents], dtype=np.int64)
        self._starts = np.cumsum(lengths) - lengths
        owners = np.repeat(np.arange(lengths.size), lengths)
        places = _whole(owners, self._tokens == eod, n)
        self._hashes, ngrams = np.unique(hash_ngrams(self._tokens, n)[places], return_inverse=True)
        self.num_ngrams = self._hashes.size

        # Each n-gram of each document once, by n-gram and then by document, with its first place.
        pairs, first = np.unique(
            ngrams.ravel() * self.num_documents + owners[places], return_index=True
        )
        self._places = places[first]
        self._documents: IntArray = pairs % self.num_documents
        bounds = np.arange(self.num_ngrams + 1) * self.num_documents
        self._bounds = np.searchsorted(pairs, bounds)
        self._sizes = np.bincount(self._documents, minlength=self.num_documents)
        self.num_short = int((self._sizes == 0).sum())

        bits = int(np.clip((32 * self.num_ngrams).bit_length(), *_FILTER_BITS))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, dtype=np.bool_)
        self._filter[self._prefixes(self._hashes)] = True

    def find(self, stream: TokenSource, progress: Callable[[int], object]) -> NgramMatches:
        """Return the n-grams found in a stream, with memory proportional to their number.

        Args:
            stream: EOD or nothing stands between its documents; where nothing does, n-grams across
                the gap count as well.
            progress: Called with the tokens looked at since the last call.

        Raises:
            ShardError: If a file is missing or was truncated.
        """
        merged = NgramMatches(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        pending, num_pending = [merged], 0
        for start, tokens in _chunks(stream, self.n):
            ngrams, places = self._look_up(hash_ngrams(tokens, self.n))
            if ngrams.size:
                pending.append(NgramMatches(ngrams, places + start))
                num_pending += ngrams.size
            if num_pending > CHUNK_TOKENS + merged.ngrams.size:  # so that merging stays linear
                merged = _merge(pending)
                pending, num_pending = [merged], 0
            progress(min(CHUNK_TOKENS, stream.num_tokens - start))
        return _merge(pending)

    def shares(self, ngrams: IntArray) -> tuple[IntArray, NDArray[np.float64]]:
        """Return how much of each document some n-grams are.

        Args:
            ngrams: Distinct, shape ``(f,)``.

        Returns:
            The documents that hold one of them, ascending, and which share of a document's
            distinct n-grams they are, in ``(0, 1]``; shape ``(documents,)`` both.
        """
        documents, counts = np.unique(self._documents[self._pairs(ngrams)], return_counts=True)
        return documents, counts / self._sizes[documents]

    def match(self, found: NgramMatches) -> Match | None:
        """Return the first match in the document of which most was found; None: nothing was."""
        documents, shares = self.shares(found.ngrams)
        if not documents.size:
            return None
        document = int(documents[shares.argmax()])
        pairs = self._pairs(found.ngrams)
        of_document = pairs[self._documents[pairs] == document]
        pair = int(of_document[self._places[of_document].argmin()])
        place = int(self._places[pair])
        ngram = int(np.searchsorted(self._bounds, pair, side="right")) - 1
        return Match(
            document=document,
            offset=place - int(self._starts[document]),
            position=int(found.positions[np.searchsorted(found.ngrams, ngram)]),
            tokens=tuple(self._tokens[place : place + self.n].tolist()),
        )

    def _look_up(self, hashes: KeyArray) -> tuple[IntArray, IntArray]:
        """Return the n-grams among some hashes, and the place of each."""
        places = np.flatnonzero(self._filter[self._prefixes(hashes)])
        candidates = hashes[places]
        ngrams = np.searchsorted(self._hashes, candidates)
        same = self._hashes[np.minimum(ngrams, self.num_ngrams - 1)] == candidates
        return ngrams[same], places[same]

    def _prefixes(self, hashes: KeyArray) -> IntArray:
        return (hashes >> self._shift).view(np.int64)

    def _pairs(self, ngrams: IntArray) -> IntArray:
        """Return the pairs of some n-grams and the documents that hold them."""
        first, last = self._bounds[ngrams], self._bounds[ngrams + 1]
        counts = last - first
        before: IntArray = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(first - before, counts)


def hash_ngrams(tokens: TokenArray, n: int) -> KeyArray:
    """Return a hash of every ``n`` consecutive tokens.

    A polynomial modulo 2^64 in the scrambled ids (Karp and Rabin 1987, with Horner's rule).

    Args:
        tokens: Ids, shape ``(N,)``.
        n: At least 1.

    Returns:
        Shape ``(max(N - n + 1, 0),)``.
    """
    size = max(tokens.size - n + 1, 0)
    values = mix(tokens.astype(np.uint64) + np.uint64(GOLDEN))
    hashes = values[:size].copy()
    for place in range(1, n):
        hashes *= np.uint64(GOLDEN)
        hashes += values[place : place + size]
    return hashes


def _whole(owners: IntArray, ends: NDArray[np.bool_], n: int) -> IntArray:
    """Return the positions of ``n`` consecutive tokens of one document without EOD."""
    size = max(owners.size - n + 1, 0)
    before = np.concatenate([[0], np.cumsum(ends)])
    free = before[n : n + size] == before[:size]
    return np.flatnonzero(free & (owners[n - 1 : n - 1 + size] == owners[:size]))


def _merge(pieces: Sequence[NgramMatches]) -> NgramMatches:
    """Return what was found in some pieces of a stream, each n-gram where it was found first.

    Args:
        pieces: In the order of the stream; only here, an n-gram may occur again and again.
    """
    ngrams, first = np.unique(np.concatenate([p.ngrams for p in pieces]), return_index=True)
    return NgramMatches(ngrams, np.concatenate([p.positions for p in pieces])[first])


def _chunks(stream: TokenSource, n: int) -> Iterator[tuple[int, TokenArray]]:
    """Yield pieces of a stream and where they begin; neighbours share ``n - 1`` tokens."""
    for start in range(0, stream.num_tokens, CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS + n - 1, stream.num_tokens)
        yield start, stream.tokens(start, stop)
