"""Mixtures that never move, and the usual ways to choose one. Knows no measurement."""

from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.mixing.scheduler import MixtureState, Observed


@final
@dataclass(frozen=True, eq=False)
class Static:
    """The same mixture from the first batch to the last.

    Attributes:
        weights: A distribution, shape ``(K,)``.

    Raises:
        ValueError: If ``weights`` is not one.
    """

    weights: FloatArray

    def __post_init__(self) -> None:
        check_simplex(self.weights)

    @property
    def observes(self) -> None:
        """Nothing is measured."""
        return

    def init(self) -> MixtureState:
        """Return the mixture."""
        weights = check_simplex(self.weights)
        return MixtureState(weights.copy(), weights.copy(), num_updates=0, num_skipped=0)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:  # noqa: ARG002
        """Return ``state``."""
        return state


def uniform_weights(num_domains: int) -> FloatArray:
    """Return ``1/K`` for each of ``num_domains >= 1`` domains, shape ``(K,)``."""
    if num_domains < 1:
        raise ValueError(f"num_domains: expected at least 1, found {num_domains}")
    return np.full(num_domains, 1.0 / num_domains)


def proportional_weights(tokens: IntArray) -> FloatArray:
    """Return each domain's share of all tokens, shape ``(K,)``.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``.

    Raises:
        ValueError: If a count is wrong.
    """
    return temperature_weights(tokens, 1.0)


def temperature_weights(tokens: IntArray, temperature: float) -> FloatArray:
    """Return ``tokens^(1 / temperature)``, normalised, as multilingual models are mixed.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``. A domain with
            none gets weight 0 at any temperature.
        temperature: Above 0; 1 is proportional, larger ones come closer to uniform.

    Raises:
        ValueError: If a count or the temperature is out of range.
    """
    if not 0.0 < temperature < np.inf:
        raise ValueError(f"temperature: expected a finite number > 0, found {temperature}")
    counts = np.asarray(tokens, dtype=np.float64)
    if counts.ndim != 1 or not (counts > 0.0).any():
        raise ValueError(f"tokens: expected shape (K,) and one count > 0, found {counts.shape}")
    if (wrong := ~(counts >= 0.0)).any():
        index = int(np.argmax(wrong))
        raise ValueError(f"tokens: expected counts >= 0, found {tokens[index]} at index {index}")
    # Relative to the largest: a power of it never overflows.
    relative = (counts / counts.max()) ** (1.0 / temperature)
    return relative / relative.sum()
