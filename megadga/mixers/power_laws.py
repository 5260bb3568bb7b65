"""Loss curves of training by domain: how they are kept in bounded memory, and fitted."""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray

MAX_BINS, MIN_BINS = 128, 16
"""Bins of a curve, fewer with more domains."""


_MAX_NUMBERS = 2**21
"""Of all curves together, as far as ``MIN_BINS`` allows; they are part of a checkpoint."""


LARGEST_EXPONENT = 0.8
"""Of fitted power laws, as in the code of arXiv 2410.11820."""


_HUBER = 1e-3
"""Residual, in log loss, from which a point counts linearly; arXiv 2410.11820, section 3.1."""


_LEAST_RELATIVE_LOSS = 1e-6
"""Losses below this share of a domain's largest, and negative ones, are left out: a logarithm of
them is taken."""


_TINY = np.finfo(np.float64).tiny
_EXPONENTS = np.linspace(0.02, LARGEST_EXPONENT, 40)
_REWEIGHTINGS = 12
_POINTS_AT_ONCE = 2**13  # of a fit, which takes so many numbers for each exponent at a time


@final
@dataclass(frozen=True, eq=False)
class LossCurves:
    """Training losses of ``K`` domains over training, in ``H`` bins of equal length.

    When all bins are full, each two neighbours become one, and a bin takes twice as many
    observations from then on: a curve of any length has at least half of its bins.

    Attributes:
        losses: Sum of the losses of each domain's sequences in a bin, shape ``(H, K)``.
        counts: Their number, same shape.
        positions: Sum of the positions at which a bin was observed, shape ``(H,)``.
        observations: Number of observations of each bin, same shape; 0 in bins not used yet.
    """

    losses: FloatArray
    counts: FloatArray
    positions: FloatArray
    observations: FloatArray

    @staticmethod
    def empty(num_domains: int) -> "LossCurves":
        """Return curves without an observation."""
        bins = num_bins(num_domains)
        shape = (bins, num_domains)
        return LossCurves(np.zeros(shape), np.zeros(shape), np.zeros(bins), np.zeros(bins))

    def observed(self, losses: FloatArray, counts: FloatArray, position: float) -> "LossCurves":
        """Return the curves with one more observation.

        Args:
            losses: Mean loss of each domain's sequences, shape ``(K,)``.
            counts: Their number, 0 for domains that were not drawn, same shape.
            position: Sequences of all domains trained until then, above that of the one before.
        """
        used = int(np.count_nonzero(self.observations))
        width = self.observations.max()
        is_open = used > 0 and self.observations[used - 1] < width
        if is_open or used < self.observations.size:
            place, before = (used - 1 if is_open else used), self
        else:
            place, before = self.observations.size // 2, self._halved()
        added = LossCurves(
            before.losses.copy(),
            before.counts.copy(),
            before.positions.copy(),
            before.observations.copy(),
        )
        added.losses[place] += losses * counts
        added.counts[place] += counts
        added.positions[place] += position
        added.observations[place] += 1.0
        return added

    def _halved(self) -> "LossCurves":
        """Return the curves with each two neighbouring bins as one."""

        def halved(values: FloatArray) -> FloatArray:
            pairs = values.reshape(-1, 2, *values.shape[1:]).sum(axis=1)
            return np.concatenate([pairs, np.zeros_like(pairs)])

        return LossCurves(
            halved(self.losses),
            halved(self.counts),
            halved(self.positions),
            halved(self.observations),
        )


def num_bins(num_domains: int) -> int:
    """Return the number of bins of curves, a power of 2 in ``[MIN_BINS, MAX_BINS]``."""
    bins = MAX_BINS
    while bins > MIN_BINS and bins * num_domains > _MAX_NUMBERS:
        bins //= 2
    return bins


@final
@dataclass(frozen=True, eq=False)
class PowerLaws:
    """``L_k(n) = floor_k + scale_k (n / unit)^(-exponent_k)`` for each of ``K`` domains.

    Attributes:
        floor: Loss that is never gone below, nats per token, at least 0, shape ``(K,)``.
        scale: Reducible loss at ``n = unit``, at least 0, same shape.
        exponent: In ``(0, LARGEST_EXPONENT]``, same shape; 0 for a domain that has no fit, as its
            curve has too few points.
        unit: Position that ``n`` is measured in, above 0.
    """

    floor: FloatArray
    scale: FloatArray
    exponent: FloatArray
    unit: float

    def losses(self, position: float) -> FloatArray:
        """Return the laws' losses at a position above 0, shape ``(K,)``."""
        return self.floor + self.scale * (position / self.unit) ** -self.exponent

    def slopes(self, position: float) -> FloatArray:
        """Return how fast the losses fall at a position, ``-dL_k/dn``, shape ``(K,)``."""
        reducible = self.scale * (position / self.unit) ** -self.exponent
        return self.exponent * reducible / position


def fit_power_laws(curves: LossCurves, *, least_points: int = 8) -> PowerLaws:
    """Fit a power law to each domain's curve.

    Minimises the sum over bins of ``w_b huber(log L_k(n_b) - log loss_b)``, where ``w_b`` is the
    number of a domain's sequences in the bin: by iteratively reweighted least squares in floor and
    scale, both at least 0, for each exponent of a grid.

    Args:
        curves: With an observation.
        least_points: Bins with a domain's sequences that its fit takes, at least 3.
    """
    used = curves.observations > 0.0
    positions = curves.positions[used] / curves.observations[used]
    unit = float(positions[-1])
    powers = (positions / unit)[None, :] ** -_EXPONENTS[:, None]
    num_domains = curves.losses.shape[1]
    fitted = np.zeros((3, num_domains))
    domains_at_once = _POINTS_AT_ONCE // positions.size
    for begin in range(0, num_domains, domains_at_once):
        part = slice(begin, begin + domains_at_once)
        counts = curves.counts[used, part]
        means = curves.losses[used, part] / np.maximum(counts, 1.0)
        largest = means.max(axis=0)
        counts = np.where(means > _LEAST_RELATIVE_LOSS * largest, counts, 0.0)
        enough = np.count_nonzero(counts, axis=0) >= least_points
        if enough.any():
            unit_loss = np.where(enough, largest, 1.0)
            relative = np.where(counts > 0.0, means, unit_loss) / unit_loss
            fitted[:, part] = _fit(powers, relative, counts) * enough
            fitted[:2, part] *= unit_loss
    floor, scale, exponent = fitted
    return PowerLaws(floor, scale, exponent, unit)


def _fit(powers: FloatArray, means: FloatArray, counts: FloatArray) -> FloatArray:
    """Return floor, scale and exponent of each domain's best fit, shape ``(3, K)``.

    Args:
        powers: ``(n_b / unit)^(-exponent)`` by exponent and bin, shape ``(E, bins)``.
        means: Losses, above 0, shape ``(bins, K)``.
        counts: Weights of these, same shape.
    """
    basis = powers[:, :, None]
    relative = counts / means**2  # of squared relative errors, which log errors are to first order
    weights = np.broadcast_to(relative, (len(powers), *means.shape))
    floor = scale = np.zeros((len(powers), means.shape[1]))
    errors = np.zeros_like(weights)
    for _ in range(_REWEIGHTINGS):
        floor, scale = _least_squares(basis, means, weights)
        found = floor[:, None, :] + scale[:, None, :] * basis
        errors = np.abs(np.log(np.maximum(found, _TINY) / means))
        # A log error's weight for the squared relative error; Huber's, beyond the limit.
        squares = (errors / np.maximum(np.abs(found / means - 1.0), 1e-12)) ** 2
        limited = np.minimum(1.0, _HUBER / np.maximum(errors, _HUBER))
        weights = relative * np.where(errors > 1e-12, squares, 1.0) * limited
    huber = np.where(errors > _HUBER, _HUBER * (errors - 0.5 * _HUBER), 0.5 * errors**2)
    best = np.argmin((counts * huber).sum(axis=1), axis=0)[None]
    chosen = [np.take_along_axis(each, best, axis=0)[0] for each in (floor, scale)]
    return np.stack([*chosen, _EXPONENTS[best[0]]])


def _least_squares(
    basis: FloatArray, means: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the floor and scale, at least 0, nearest to the losses; each ``(E, K)``."""
    total = weights.sum(axis=1)
    of_basis, of_means = (weights * basis).sum(axis=1), (weights * means).sum(axis=1)
    squares, products = (weights * basis**2).sum(axis=1), (weights * basis * means).sum(axis=1)
    determinant = np.maximum(total * squares - of_basis**2, _TINY)
    floor = (squares * of_means - of_basis * products) / determinant
    scale = (total * products - of_basis * of_means) / determinant
    without_floor: FloatArray = products / np.maximum(squares, _TINY)
    without_scale: FloatArray = of_means / np.maximum(total, _TINY)
    bounded: FloatArray = np.where(floor < 0.0, without_floor, scale)
    return (
        np.where(scale < 0.0, without_scale, np.maximum(floor, 0.0)),
        np.where(scale < 0.0, 0.0, bounded),
    )
