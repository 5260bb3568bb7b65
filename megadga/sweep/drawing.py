"""Mixtures of a sweep: from the halving grid of data mixing laws, or around a prior as RegMix's.

Pure functions of a seed: the same arguments draw the same mixtures on any machine.
"""

import math

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.simplex import project_to_caps

_ROUNDS = 16
_DRAWS = 2**15
"""Candidates that are drawn at a time from the halving grid, before those outside are dropped."""


def draw_halving(caps: FloatArray, *, number: int, smallest: float, seed: int) -> FloatArray:
    """Return mixtures from the halving grid of data mixing laws (arXiv 2403.16952).

    Every domain but the last has a weight of ``cap / 2^s``, ``s = 0, 1, ...``, or 0 in place of
    those below ``smallest``; the last takes the rest, if that is within its cap. The authors' code
    (``pipeline/find_opt.py``, ``dfs``) lists all of these, ``(s + 1)^(K - 1)`` before those
    outside are dropped; here domains' weights are drawn independently and uniformly from their
    lists, and the mixtures outside dropped, which draws uniformly from the same set for more
    domains than can be listed. Which domain is the last is drawn, too: in the code it is the last
    in the order.

    Args:
        caps: Largest weight of each domain, above 0, with a sum of at least 1, shape ``(K,)``.
        number: Mixtures, at least 1, all different.
        smallest: Smallest weight but 0, above 0.
        seed: At least 0.

    Returns:
        Distributions, shape ``(number, K)``.

    Raises:
        ValueError: If so many were not found: the grid has fewer, or there are too many domains
            for their weights to sum to less than 1 by chance.
    """
    levels = [_halvings(float(cap), smallest) for cap in caps]
    found: dict[bytes, FloatArray] = {}
    for attempt in range(_ROUNDS):
        rng = np.random.default_rng((seed, attempt))
        weights = np.stack([rng.choice(level, size=_DRAWS) for level in levels], axis=1)
        last = rng.integers(caps.size, size=_DRAWS)
        rows = np.arange(_DRAWS)
        weights[rows, last] = 0.0
        rest = 1.0 - weights.sum(axis=1)
        weights[rows, last] = rest
        inside = weights[(rest >= 0.0) & (rest <= caps[last])]
        _, firsts = np.unique(inside.round(12), axis=0, return_index=True)
        for mixture in inside[np.sort(firsts)]:
            found.setdefault(mixture.round(12).tobytes(), mixture)
            if len(found) == number:
                return np.stack([check_simplex(each) for each in found.values()])
    raise ValueError(
        f"number: expected at most {len(found)} for {caps.size} domains, as many as "
        f"{_ROUNDS * _DRAWS:,} draws from the halving grid found, found {number}; "
        "a dirichlet around a prior has no such limit"
    )


def _halvings(cap: float, smallest: float) -> FloatArray:
    """Return ``cap, cap / 2, ...`` down to ``smallest``, and 0."""
    count = int(np.floor(np.log2(cap / smallest) + 1e-9)) + 1 if cap >= smallest else 0
    return np.append(cap * 0.5 ** np.arange(count), 0.0)


def draw_dirichlet(
    prior: FloatArray,
    caps: FloatArray,
    *,
    number: int,
    strength: tuple[float, float],
    seed: int,
) -> FloatArray:
    """Return mixtures around a prior, as RegMix draws them (arXiv 2407.01492).

    Each is drawn from ``Dirichlet(strength * prior)`` with a strength that is log-uniform between
    two bounds: low ones make mixtures of few domains, high ones mixtures near the prior. RegMix's
    code (``mixture_config/synthesize_mixture.py``) takes one of 15 strengths between 0.1 and 5,
    and drops mixtures with a weight above its cap; here such weights come down to their caps and
    the others share what is left in proportion, as of many tight caps none would be met by chance.

    Args:
        prior: A distribution, shape ``(K,)``. Its zeros stay zero.
        caps: Largest weight of each domain, above 0, with a sum of at least 1, same shape.
        number: Mixtures, at least 1.
        strength: Smallest and largest, above 0.
        seed: At least 0.

    Returns:
        Distributions, shape ``(number, K)``.
    """
    support = np.flatnonzero(prior)
    mixtures = np.zeros((number, prior.size))
    low, high = (math.log(each) for each in strength)
    for index in range(number):
        rng = np.random.default_rng((seed, index))
        scale = float(np.exp(rng.uniform(low, high)))
        # At low strengths all gamma variates may underflow; their logarithms do not.
        shapes: FloatArray = scale * prior[support]
        gammas: FloatArray = rng.standard_gamma(shapes + 1.0)
        uniforms: FloatArray = rng.random(shapes.size)
        logs: FloatArray = np.log(gammas) + np.log(uniforms) / shapes
        drawn: FloatArray = np.exp(logs - logs.max())
        # A weight that is far below all others would not leave 0 however high its cap is.
        mixtures[index, support] = np.maximum(drawn / drawn.sum(), 1e-12)
        mixtures[index] /= mixtures[index].sum()
        mixtures[index] = project_to_caps(mixtures[index], caps)
    return mixtures
