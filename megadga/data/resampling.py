"""Windows of domains that repeat, drawn by their last norms in place of another epoch."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.permutation import RandomStream, address_keys

NormArray = NDArray[np.float32]


@final
@dataclass(frozen=True, eq=False)
class WindowNorms:
    """What is known of every window of ``K`` domains: the norm when it was trained on last.

    Four bytes a window, ``W`` windows of all domains.

    Attributes:
        sizes: Windows of each domain, shape ``(K,)``.
        values: At least 0, NaN where a window was not trained on yet; by domain, then by window,
            shape ``(W,)``.
    """

    sizes: IntArray
    values: NormArray

    @classmethod
    def unknown(cls, sizes: IntArray) -> "WindowNorms":
        """Return what is known at the start of a run."""
        return cls(sizes, np.full(int(sizes.sum()), np.nan, dtype=np.float32))

    def places(self, domains: IntArray, windows: IntArray) -> IntArray:
        """Return where the values of windows are, shape ``(N,)``."""
        return (np.cumsum(self.sizes) - self.sizes)[domains] + windows

    def observed(self, places: IntArray, norms: FloatArray) -> "WindowNorms":
        """Return the norms after some were observed; of one window's, the last counts.

        Args:
            places: Of the windows, shape ``(N,)``.
            norms: Of each, in the order of time; one that is not finite is left out.
        """
        finite = np.isfinite(norms)
        values = self.values.copy()
        values[places[finite]] = norms[finite]
        return WindowNorms(self.sizes, values)

    def probabilities(self, domain: int, *, uniform_share: float) -> FloatArray:
        """Return the probability of drawing each window of a domain, shape ``(N,)``.

        Of a window that is not known yet the norm is taken to be the mean of those that are.

        Args:
            domain: In ``[0, K)``.
            uniform_share: In ``(0, 1]``: no window is drawn less often than in this share of a
                uniform draw.
        """
        end = int(self.sizes[: domain + 1].sum())
        norms = self.values[end - int(self.sizes[domain]) : end].astype(np.float64)
        unknown = np.isnan(norms)
        # Sums one after the other have equal bits on every processor; ranks draw by them.
        known = np.cumsum(norms[~unknown])
        norms[unknown] = known[-1] / known.size if known.size else 1.0
        uniform = np.full(norms.size, 1.0 / norms.size)
        if (total := np.cumsum(norms)[-1]) == 0.0:
            return uniform
        return (1.0 - uniform_share) * (norms / total) + uniform_share * uniform

    def carried(self, sources: IntArray, sizes: IntArray) -> "WindowNorms":
        """Return the norms of other domains, of which some are these, and may have grown.

        Args:
            sources: For each domain afterwards, which of these it is, -1 for one that enters,
                shape ``(K',)``.
            sizes: Windows of each afterwards, shape ``(K',)``.
        """
        before = np.split(self.values, np.cumsum(self.sizes)[:-1])
        after = WindowNorms.unknown(sizes)
        parts = np.split(after.values, np.cumsum(sizes)[:-1])  # views
        for part, source in zip(parts, sources.tolist(), strict=True):
            if source >= 0:
                num_kept = min(part.size, int(self.sizes[source]))
                part[:num_kept] = before[source][:num_kept]
        return after


@final
@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of windows with replacement, in proportion to their norms (arXiv 2311.14468).

    Window ``j`` of the ``N`` of a domain is drawn with

        p_j = (1 - uniform_share) q_j / sum_i q_i + uniform_share / N

    and counts ``1 / (N p_j)`` in the loss, at most ``1 / uniform_share``: the expected gradient is
    the mean over the domain's windows, as of an epoch's draws, whatever the norms ``q`` are.

    Attributes:
        norms: Of every window.
        uniform_share: In ``(0, 1]``.

    Raises:
        ValueError: If the share is out of range.
    """

    norms: WindowNorms
    uniform_share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.uniform_share <= 1.0:
            raise ValueError(
                f"uniform_share: expected 0 < uniform_share <= 1, found {self.uniform_share}"
            )

    def draw(
        self, domains: IntArray, draws: IntArray, numbers: IntArray, *, seed: int
    ) -> tuple[IntArray, FloatArray]:
        """Return the window of each draw, and what it counts in the loss, both ``(N,)``.

        A function of the arguments and of the norms: a draw has its own random number, by the
        domain's number and how many draws were before.

        Args:
            domains: Domain of each draw, shape ``(N,)``.
            draws: Number of earlier draws from the same domain, shape ``(N,)``.
            numbers: What addresses the random numbers of each domain, shape ``(K,)``.
            seed: In ``[0, 2**64)``.
        """
        keys = address_keys(seed, RandomStream.RESAMPLED_WINDOWS, numbers[domains], draws)
        points = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53
        windows, factors = np.empty_like(domains), np.empty(domains.size)
        for domain in np.unique(domains).tolist():
            rows = domains == domain
            windows[rows], factors[rows] = self.at(domain, points[rows])
        return windows, factors

    def at(self, domain: int, points: FloatArray) -> tuple[IntArray, FloatArray]:
        """Return the windows of a domain that points fall on, and what they count, both ``(n,)``.

        Args:
            domain: In ``[0, K)``.
            points: In ``[0, 1)``, where window ``j`` has an interval of length ``p_j``, ``(n,)``.
        """
        shares = self.norms.probabilities(domain, uniform_share=self.uniform_share)
        ends = np.cumsum(shares)
        found = np.searchsorted(ends, points * float(ends[-1]), side="right")
        windows = np.minimum(found, shares.size - 1)  # where the product is rounded up
        return windows, 1.0 / (shares.size * shares[windows])
