"""Importance sampling: the mixture that a histogram of the specific set gives. Knows no files."""

from collections.abc import Mapping, Sequence

import numpy as np

from megadga.arrays import FloatArray

_NAMES_SHOWN = 5


def importance_weights(histogram: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """Return the share of specific documents that fall into each domain (the paper's baseline).

    Args:
        histogram: Documents, or any non-negative mass, by domain name. Every domain must be named,
            with 0 where nothing falls into it, and nothing else.
        names: The domains in the order of the result, ``K`` of them.

    Returns:
        Weights that sum to 1, shape ``(K,)``.

    Raises:
        ValueError: If domains are unknown or missing, or the numbers are no histogram.
    """
    unknown = sorted(histogram.keys() - set(names))
    missing = sorted(set(names) - histogram.keys())
    if unknown or missing:
        raise ValueError(
            f"histogram: expected exactly the {len(names)} domains, found "
            f"{_listed(unknown)} unknown and {_listed(missing)} missing"
        )
    masses = np.array([histogram[name] for name in names], dtype=np.float64)
    if (wrong := ~(np.isfinite(masses) & (masses >= 0.0))).any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"histogram: {names[index]}: expected a finite number >= 0, found {masses[index]}"
        )
    if not (masses > 0.0).any():
        raise ValueError("histogram: expected a mass > 0 in some domain, found only 0")
    relative = masses / masses.max()
    return relative / relative.sum()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} ... ({len(names)} in all)"
