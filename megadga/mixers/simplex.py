"""Updates and projections on the probability simplex."""

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray


def exponentiated_step(weights: FloatArray, scores: FloatArray, step_size: float) -> FloatArray:
    """Return ``weights * exp(step_size * scores)``, renormalised: a step of mirror descent.

    Zeros stay zero. Nothing else becomes zero: a weight that would underflow stays at the smallest
    normal number (2e-308), since from zero no later score could bring it back. A step size of 0
    returns ``weights`` itself.

    Args:
        weights: A distribution, shape ``(K,)``.
        scores: Finite, of any size, shape ``(K,)``.
        step_size: Not negative; in units of one over the scores'.
    """
    if step_size == 0.0:
        return weights
    support = weights > 0.0
    largest = np.finfo(np.float64).max
    with np.errstate(over="ignore"):
        # Normalising removes whatever is common to all scores, so the best one may as well be 0:
        # then no exponent is positive, and only those of hopeless scores can leave the range.
        gaps = np.maximum(scores[support] - scores[support].max(), -largest)
        exponents = np.log(weights[support]) + step_size * gaps
    return _normalised_exp(exponents, support)


def geometric_mixture(weights: FloatArray, prior: FloatArray, pull: float) -> FloatArray:
    """Return ``weights**(1 - pull) * prior**pull``, renormalised.

    Args:
        weights: A distribution, shape ``(K,)``.
        prior: A distribution that is positive wherever ``weights`` is, shape ``(K,)``.
        pull: 0 gives ``weights``, 1 gives ``prior`` on the support of ``weights``.
    """
    support = weights > 0.0
    exponents = (1.0 - pull) * np.log(weights[support]) + pull * np.log(prior[support])
    return _normalised_exp(exponents, support)


def project_to_floor(weights: FloatArray, floor: float) -> FloatArray:
    """Return the nearest distribution in ``KL(w || weights)`` with every ``w_i >= floor``.

    It is ``w_i = max(floor, c weights_i)`` with the ``c <= 1`` for which they sum to 1: weights
    below the floor are lifted onto it, and only those above pay, in proportion.

    Args:
        weights: A distribution, shape ``(K,)``; zeros are lifted like any other.
        floor: In ``[0, 1/K]``.

    Returns:
        ``weights`` itself if none is below the floor, else a new array.
    """
    if weights.min() >= floor:
        return weights
    ascending = np.sort(weights)
    # With the m smallest on the floor, the others share what is left: sums[m] is their mass.
    sums = np.cumsum(ascending[::-1])[::-1]
    scales = (1.0 - floor * np.arange(weights.size)) / sums
    # The first m whose smallest other weight stays above is the one; at floor = 1/K none may.
    above = scales * ascending >= floor
    scale = scales[np.argmax(above)] if above.any() else 0.0
    return np.maximum(weights * scale, floor)


def project_to_caps(weights: FloatArray, caps: FloatArray) -> FloatArray:
    """Return the nearest distribution in ``KL(w || weights)`` with every ``w_i <= caps_i``.

    It is ``w_i = min(caps_i, c weights_i)`` with the ``c >= 1`` for which they sum to 1: what is
    above its cap comes down to it, and the others gain in proportion. Zeros stay zero.

    Args:
        weights: A distribution, shape ``(K,)``.
        caps: At least 0, shape ``(K,)``; above 0 for some weight that is. If those of weights
            above 0 sum to less than 1, they are scaled to it, and are the result.

    Returns:
        ``weights`` itself if none is above its cap, else a new array.
    """
    if (weights <= caps).all():
        return weights
    support = np.flatnonzero(weights)
    shares, limits = weights[support], caps[support]
    capped = np.zeros_like(weights)
    if limits.sum() <= 1.0:
        capped[support] = limits / limits.sum()
        return capped
    # Where the scale at which each reaches its cap ascends, a first part of them are at their caps
    # and the others are scaled by the mass that is left: the shortest part that leaves the next
    # one below its cap.
    with np.errstate(over="ignore"):
        reached = limits / shares
    order = np.argsort(reached, kind="stable")
    ratios = np.append(reached[order], np.inf)
    at_caps = np.append(0.0, np.cumsum(limits[order]))
    others = np.append(np.cumsum(shares[order][::-1])[::-1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scales = (1.0 - at_caps) / others
    scale = scales[np.argmax(scales <= ratios)]
    capped[support] = np.minimum(limits, shares * scale)
    return capped / capped.sum()


def _normalised_exp(exponents: FloatArray, support: NDArray[np.bool_]) -> FloatArray:
    """Return ``exp(exponents)`` on the support and 0 elsewhere, scaled to sum to 1."""
    relative = np.exp(exponents - exponents.max())
    weights = np.zeros(support.shape)
    weights[support] = np.maximum(relative / relative.sum(), np.finfo(np.float64).tiny)
    return weights
