"""Draws the windows that alignments are measured on, from their own random stream."""

from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.order import check_sizes, shuffled_windows
from megadga.data.permutation import RandomStream, address_keys, check_seed
from megadga.data.sampler import Selection, golden_offset, occurrences, systematic


@final
class ProbeSampler:
    """Draws probe windows of each domain as a pure function of (seed, update, domain).

    Each domain has an endless shuffled stream of windows, of which every update takes the next
    segment. Drawing moves no cursor of the training order and does not depend on it. A domain that
    grows gets another order from then on.

    Args:
        sizes: Windows of each domain, in ``[1, 2**62]``, shape ``(K,)``.
        seed: Seed of the stream, in ``[0, 2**64)``. It may be the ``MixtureSampler``'s: the two
            orders are independent.
        numbers: What addresses each domain's stream, all different, at least 0, shape ``(K,)``;
            None: its index.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, sizes: IntArray, *, seed: int, numbers: IntArray | None = None) -> None:
        self._sizes = check_sizes(sizes)
        self._seed = check_seed(seed)
        self._numbers = numbers
        if numbers is not None and numbers.shape != self._sizes.shape:
            raise ValueError(f"numbers: expected shape {self._sizes.shape}, found {numbers.shape}")

    def draw(self, update: int, domain: int, count: int) -> Selection:
        """Return the windows of one domain for one update.

        Update ``u`` takes positions ``[u * count, (u + 1) * count)`` of the stream, so that a
        window repeats only after all others of the domain have been drawn.

        Args:
            update: Index of the update, from 0.
            domain: In ``[0, K)``.
            count: Windows to draw, at least 1.

        Raises:
            ValueError: If an argument is out of range.
        """
        return self.draw_each(update, np.array([domain], dtype=np.int64), count)

    def draw_each(self, update: int, domains: IntArray, count: int) -> Selection:
        """Return what `draw` does for each of several domains, one after another.

        All at once: of single domains, hashing for a permutation takes a hundred times as long.

        Args:
            update: Index of the update, from 0.
            domains: In ``[0, K)``, shape ``(n,)``.
            count: Windows to draw of each, at least 1.

        Raises:
            ValueError: If an argument is out of range.
        """
        wrong = domains[(domains < 0) | (domains >= self._sizes.size)]
        if update < 0 or count < 1 or wrong.size:
            found = ", ".join(map(str, (wrong if wrong.size else domains)[:8].tolist()))
            raise ValueError(
                f"draw: expected update >= 0, 0 <= domain < {self._sizes.size} and count >= 1, "
                f"found update {update}, domain {found}, count {count}"
            )
        draws = np.arange(update * count, (update + 1) * count, dtype=np.int64)
        return self._selected(np.repeat(domains, count), np.tile(draws, domains.size))

    def draw_mixture(
        self, update: int, mixture: int, count: int, *, domains: IntArray, shares: FloatArray
    ) -> Selection:
        """Return the windows of a mixture of domains for one update.

        The expected number of windows of domain ``i`` is ``e_i = count * share_i``. `systematic`
        draws it ``floor(e_i)`` or ``ceil(e_i)`` times, with offsets that distribute a mixture's
        rare domains evenly over its updates. A mixture of one domain gives the result of `draw`.

        No state counts earlier draws: the start position in each domain's stream is computed from
        the index of the update. It advances by `_stride` per update, which is large enough that
        no mixture draws a position twice, and at most three times the expected number of windows
        (or 1). So a window can repeat only in another epoch of the stream. Mixtures with a common
        domain draw from the same stream.

        Args:
            update: Index of the update, from 0.
            mixture: Index of the mixture, at least 0; selects its offsets.
            count: Windows to draw, at least 1.
            domains: Domains with a positive share, in ``[0, K)``, shape ``(entries,)``.
            shares: Their shares, above 0, with a sum of 1, shape ``(entries,)``.

        Raises:
            ValueError: If a number is out of range.
        """
        if update < 0 or mixture < 0 or count < 1:
            raise ValueError(
                "draw: expected update >= 0, mixture >= 0 and count >= 1, "
                f"found update {update}, mixture {mixture}, count {count}"
            )
        start = int(address_keys(self._seed, RandomStream.PROBE_OFFSETS, mixture)[0])
        entries = systematic(shares, count, golden_offset(start, update))
        begins = np.floor(update * _stride(count * shares[entries])).astype(np.int64)
        return self._selected(domains[entries], begins + occurrences(entries))

    def _selected(self, domains: IntArray, draws: IntArray) -> Selection:
        sequences = shuffled_windows(
            domains,
            draws,
            self._sizes,
            seed=self._seed,
            stream=RandomStream.PROBE_ORDER,
            numbers=self._numbers,
        )
        return Selection(domains, sequences)


def _stride(expected: FloatArray) -> FloatArray:
    """Return how far a stream advances per update, for ``expected`` windows per update.

    For ``e >= 1`` this is the maximum that one update draws, ``ceil(e)``. For ``e < 1`` a domain
    is drawn when the update's offset falls into an interval of length ``e``. Two offsets of the
    golden sequence that are ``F_k`` updates apart (Fibonacci numbers) differ by ``phi^-k``, and
    those of closer updates differ by more. So for ``phi^-k < e <= phi^(1-k)`` two such updates are
    at least ``F_k > phi^k / 3 > 1 / (3e)`` apart, and ``3e`` per update advances at least one
    position between them.
    """
    return np.where(expected >= 1.0, np.ceil(expected), np.minimum(3.0 * expected, 1.0))
