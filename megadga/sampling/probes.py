"""Draws the windows that alignments are measured on. Knows no gradient and no training order."""

from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.sampling.addresses import Stream, check_seed
from megadga.sampling.order import check_sizes, shuffled_windows
from megadga.sampling.selection import Selection


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
        sequences = shuffled_windows(
            domains, draws, self._sizes, seed=self._seed, stream=Stream.PROBE_ORDER
        )
        return Selection(domains, sequences)
