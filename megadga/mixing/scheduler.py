"""The scheduler protocol: state in, state out. Knows no algorithm and no gradient."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megadga.arrays import FloatArray


@dataclass(frozen=True, eq=False)
class Alignments:
    """What one probe measured: the ``2K + 1`` numbers that every score is made of.

    Attributes:
        dots: ``a_i = <g_i, v>`` of each domain's gradient with the specific one, shape ``(K,)``.
        squared_norms: ``|g_i|^2``, shape ``(K,)``.
        specific_squared_norm: ``|v|^2``.

    Raises:
        ValueError: If the shapes are not ``(K,)`` twice.
    """

    dots: FloatArray
    squared_norms: FloatArray
    specific_squared_norm: float

    def __post_init__(self) -> None:
        shapes = self.dots.shape, self.squared_norms.shape
        if self.dots.ndim != 1 or shapes[0] != shapes[1]:
            raise ValueError(
                f"alignments: expected dots and squared_norms of one shape (K,), found "
                f"{shapes[0]} and {shapes[1]}"
            )

    def is_finite(self) -> bool:
        """Tell whether every number is neither infinite nor NaN."""
        arrays = (self.dots, self.squared_norms, np.asarray(self.specific_squared_norm))
        return all(bool(np.isfinite(array).all()) for array in arrays)


@dataclass(frozen=True, eq=False)
class MixtureState:
    """All that a scheduler remembers.

    Attributes:
        weights: The instantaneous mixture alpha, a distribution of shape ``(K,)``.
        averaged_weights: Its moving average, of the same shape: what batches are sampled from.
        num_updates: Updates that were applied.
        num_skipped: Updates that were left out because a measurement was not finite.
    """

    weights: FloatArray
    averaged_weights: FloatArray
    num_updates: int
    num_skipped: int


class Scheduler(Protocol):
    """A rule that moves the mixture. Equal states and observations give equal bits."""

    @property
    def observes(self) -> type[Alignments] | None:
        """What :meth:`update` needs measured; None if the mixture never moves."""
        ...

    def init(self) -> MixtureState:
        """Return the state before the first update."""
        ...

    def update(self, state: MixtureState, observed: Alignments) -> MixtureState:
        """Return the state after one measurement; ``state`` stays as it is.

        Raises:
            ValueError: If ``observed`` has another number of domains than ``state``.
        """
        ...
