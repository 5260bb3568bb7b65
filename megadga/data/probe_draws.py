"""Draws the windows that alignments are measured on, in a stream of their own."""

from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.data.permutation import RandomStream, address_keys, check_seed
from megadga.data.sampler import (
    Selection,
    check_sizes,
    golden_offset,
    occurrences,
    shuffled_windows,
    systematic,
)


@final
class ProbeSampler:
    """An endless shuffled stream of each domain's windows, cut into one piece an update.

    It is a function of the address (seed, update, domain) alone: measuring moves no cursor of the
    training order, and what training has drawn does not matter here.

    Args:
        sizes: Windows of each domain, in ``[1, 2**62]``, shape ``(K,)``.
        seed: Addresses the stream, in ``[0, 2**64)``. The same seed as a ``MixtureSampler``'s
            gives an order independent of its order.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, sizes: IntArray, *, seed: int) -> None:
        self._sizes = check_sizes(sizes)
        self._seed = check_seed(seed)

    def draw(self, update: int, domain: int, count: int) -> Selection:
        """Return the windows of one domain that an update is measured on.

        Update ``u`` takes positions ``[u * count, (u + 1) * count)`` of the stream: windows repeat
        only after all others of the domain have come.

        Args:
            update: Number of the update, from 0.
            domain: In ``[0, K)``.
            count: Windows to draw, at least 1.

        Raises:
            ValueError: If an argument is out of range.
        """
        if update < 0 or count < 1 or not 0 <= domain < self._sizes.size:
            raise ValueError(
                f"draw: expected update >= 0, 0 <= domain < {self._sizes.size} and count >= 1, "
                f"found update {update}, domain {domain}, count {count}"
            )
        draws = np.arange(update * count, (update + 1) * count, dtype=np.int64)
        domains = np.full(count, domain, dtype=np.int64)
        return self._selected(domains, draws)

    def draw_mixture(
        self, update: int, mixture: int, count: int, *, domains: IntArray, shares: FloatArray
    ) -> Selection:
        """Return the windows of a mixture of domains that an update is measured on.

        Domain ``i`` is to have ``e_i = count * share_i`` of them. It is drawn ``floor(e_i)`` or
        ``ceil(e_i)`` times, by `systematic`, with offsets that spread a mixture's rare domains
        evenly over its updates. A mixture of one domain gives what `draw` gives.

        How often a domain was drawn before is not remembered: an update takes the windows of each
        domain from a place in its stream that the number of the update gives. Places advance by
        `_stride`, which is fast enough that no mixture takes one twice, and at most three times as
        fast as windows are drawn (or by one an update). So a window can come again only in another
        epoch of the stream. Mixtures that share a domain share its windows.

        Args:
            update: Number of the update, from 0.
            mixture: Addresses its offsets, at least 0.
            count: Windows to draw, at least 1.
            domains: Those with a share, in ``[0, K)``, shape ``(entries,)``.
            shares: Theirs, above 0, with a sum of 1, shape ``(entries,)``.

        Raises:
            ValueError: If a number is out of range.
        """
        if update < 0 or mixture < 0 or count < 1:
            raise ValueError(
                "draw: expected update >= 0, mixture >= 0 and count >= 1, "
                f"found update {update}, mixture {mixture}, count {count}"
            )
        start = int(address_keys(self._seed, RandomStream.PROBE_OFFSETS, mixture)[0])
        places = systematic(shares, count, golden_offset(start, update))
        begins = np.floor(update * _stride(count * shares[places])).astype(np.int64)
        return self._selected(domains[places], begins + occurrences(places))

    def _selected(self, domains: IntArray, draws: IntArray) -> Selection:
        sequences = shuffled_windows(
            domains, draws, self._sizes, seed=self._seed, stream=RandomStream.PROBE_ORDER
        )
        return Selection(domains, sequences)


def _stride(expected: FloatArray) -> FloatArray:
    """Return how far a stream advances an update, of which ``expected`` windows are drawn.

    From 1 on it is the most that an update draws, ``ceil(e)``. Below, a domain is drawn in an
    update whose offset falls into an interval of length ``e``. Two offsets of the golden sequence
    that are ``F_k`` updates apart (Fibonacci's numbers) lie ``phi^-k`` apart, and of fewer updates
    further. So for ``phi^-k < e <= phi^(1-k)`` two such updates are ``F_k > phi^k / 3 > 1 / (3e)``
    or more apart, and ``3e`` an update is at least one place from one of them to the next.
    """
    return np.where(expected >= 1.0, np.ceil(expected), np.minimum(3.0 * expected, 1.0))
