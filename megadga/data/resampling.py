"""Windows of domains that repeat, drawn by their last norms in place of another epoch."""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.permutation import RandomStream, address_keys

NormArray = NDArray[np.float32]


@final
@dataclass(frozen=True, eq=False)
class DomainNorms:
    """Norms of the ``N`` windows of one domain, and what its probabilities follow from.

    Attributes:
        values: At least 0, NaN where a window was not trained on yet, shape ``(N,)``.
        mean: Of those that are known: it stands for the others.
        total: Sum over all windows.
    """

    values: NormArray
    mean: float
    total: float

    @classmethod
    def of(cls, values: NormArray) -> "DomainNorms":
        """Return the norms with their mean and total, of equal bits on every processor."""
        # By sums one after the other; ranks draw by them.
        known = np.cumsum(values[~np.isnan(values)], dtype=np.float64)
        mean = float(known[-1] / known.size) if known.size else 1.0
        return cls(values, mean, float(np.cumsum(_with_mean(values, mean))[-1]))

    def probabilities(self, windows: IntArray | slice, *, uniform_share: float) -> FloatArray:
        """Return the probability of drawing each of some windows; see ``Resampling``."""
        norms = _with_mean(self.values[windows], self.mean)
        uniform = 1.0 / self.values.size
        if self.total == 0.0:
            return np.full(norms.size, uniform)
        return (1.0 - uniform_share) * (norms / self.total) + uniform_share * uniform


def _with_mean(values: NormArray, mean: float) -> FloatArray:
    return np.where(np.isnan(values), mean, values.astype(np.float64))


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
        return self.of_domain(domain).probabilities(slice(None), uniform_share=uniform_share)

    def of_domain(self, domain: int) -> DomainNorms:
        """Return what is known of the windows of a domain, in ``[0, K)``."""
        end = int(self.sizes[: domain + 1].sum())
        return DomainNorms.of(self.values[end - int(self.sizes[domain]) : end])

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

    What draws from a domain follow from is computed once and kept, 8 bytes for each window of the
    domains that were drawn from: norms stay until the next update, over many batches.

    Attributes:
        norms: Of every window.
        uniform_share: In ``(0, 1]``.

    Raises:
        ValueError: If the share is out of range.
    """

    norms: WindowNorms
    uniform_share: float
    _intervals: dict[int, tuple[DomainNorms, FloatArray]] = field(
        default_factory=dict[int, tuple[DomainNorms, FloatArray]], init=False, repr=False
    )

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
        norms, ends = self._intervals_of(domain)
        found = np.searchsorted(ends, points * float(ends[-1]), side="right")
        windows = np.minimum(found, ends.size - 1)  # where the product is rounded up
        shares = norms.probabilities(windows, uniform_share=self.uniform_share)
        return windows, 1.0 / (ends.size * shares)

    def _intervals_of(self, domain: int) -> tuple[DomainNorms, FloatArray]:
        """Return a domain's norms, and where the interval of each window ends, shape ``(N,)``."""
        if (kept := self._intervals.get(domain)) is None:
            norms = self.norms.of_domain(domain)
            shares = norms.probabilities(slice(None), uniform_share=self.uniform_share)
            kept = self._intervals[domain] = norms, np.cumsum(shares)
        return kept
