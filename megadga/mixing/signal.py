"""How far scores differ beyond the noise of measuring them. Knows no gradient and no rule."""

import math

import numpy as np

from megadga.arrays import FloatArray


def signal_to_noise(scores: FloatArray, standard_errors: FloatArray) -> float:
    """Return how much the true scores differ between domains, in units of their noise.

    An update moves weight by differences between scores alone. A measured score is ``s_i = m_i +
    e_i``: what it would be over all of the domain, and an error of variance ``se_i^2`` from the
    choice of sequences, independent of the other domains'. With variances over the domains
    (``1/(K-1)``) the expectation is ``E Var(s) = Var(m) + mean(se^2)``, for any ``se_i``, so

        sqrt(max(Var(s) - mean(se^2), 0) / mean(se^2))

    estimates ``std(m) / rms(se)``. Where the domains do not differ it is about 0, at 1 half of
    the variance that an update sees is noise. What the specific sequences leave uncertain moves
    all scores together, and is no part of it.

    Args:
        scores: Finite, shape ``(K,)``, ``K >= 1``.
        standard_errors: At least 0, shape ``(K,)``; infinite where nothing is known of a domain.

    Returns:
        A number in ``[0, inf]``: 0 for equal scores or a single domain, and if a standard error is
        infinite; infinite if scores differ and none of them has any noise.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != standard_errors.shape:
        raise ValueError(
            f"standard_errors: expected shape {scores.shape}, found {standard_errors.shape}"
        )
    spread, noise = standard_deviation(scores), _root_mean_square(standard_errors)
    if spread <= noise or math.isinf(noise):
        return 0.0
    if noise == 0.0:
        return math.inf
    with np.errstate(over="ignore"):
        ratio = np.float64(spread) / noise
    # sqrt(ratio^2 - 1), whose square would overflow first.
    return float(np.sqrt(ratio - 1.0) * np.sqrt(ratio + 1.0))


def standard_deviation(values: FloatArray) -> float:
    """Return it over ``K - 1``; exactly 0 if all are equal, and for a single value.

    Args:
        values: Finite, of any size, shape ``(K,)``, ``K >= 1``.
    """
    half = values / 2.0 - values.min() / 2.0  # the whole difference may overflow
    if (reach := float(half.max())) == 0.0:
        return 0.0
    relative = half / reach  # so might their sum
    correction = math.sqrt(values.size / max(values.size - 1, 1))
    return _root_mean_square(relative - relative.mean()) * correction * reach * 2.0


def _root_mean_square(values: FloatArray) -> float:
    largest = float(np.abs(values).max())
    if largest == 0.0 or math.isinf(largest):
        return largest
    return largest * math.sqrt(np.mean((values / largest) ** 2))  # squares might overflow
