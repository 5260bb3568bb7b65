"""The scheduler protocol: state in, state out. Knows no algorithm and no gradient."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megadga.arrays import FloatArray


@dataclass(frozen=True)
class AlignmentNeeds:
    """What a rule reads of alignments besides the inner products: what costs more to measure.

    Attributes:
        norms: ``|g_i|^2`` of every domain; each takes a whole gradient of its own, reduced over
            the ranks.
        preconditioned: The specific gradient divided by what AdamW divides its own by.
    """

    norms: bool = False
    preconditioned: bool = False


@dataclass(frozen=True, eq=False)
class Alignments:
    """What one probe measured.

    Attributes:
        dots: ``a_i = <g_i, d>`` of each domain's gradient with the direction, shape ``(K,)``.
        specific_squared_norm: ``|v|^2`` of the specific gradient.
        squared_norms: ``|g_i|^2``, shape ``(K,)``; None if nobody asked for them.
        standard_errors: Of ``dots``, over the choice of each domain's sequences with the
            direction held, shape ``(K,)``; None if the probe sees no single sequences, or one a
            domain.
        direction_energy: Share of ``|v|^2`` that the direction holds, in ``[0, 1]``; below 1 for
            thin factors, and an estimate then.
        preconditioned: Whether the direction ``d`` is ``v`` divided by AdamW's second moments;
            else it is ``v`` itself.

    Raises:
        ValueError: If the arrays are not all of one shape ``(K,)``.
    """

    dots: FloatArray
    specific_squared_norm: float
    squared_norms: FloatArray | None = None
    standard_errors: FloatArray | None = None
    direction_energy: float = 1.0
    preconditioned: bool = False

    def __post_init__(self) -> None:
        shapes = [array.shape for array in self._arrays()]
        if self.dots.ndim != 1 or len(set(shapes)) != 1:
            found = ", ".join(map(str, shapes))
            raise ValueError(f"alignments: expected arrays of one shape (K,), found {found}")

    def is_finite(self) -> bool:
        """Tell whether every number is neither infinite nor NaN."""
        arrays = (*self._arrays(), np.asarray(self.specific_squared_norm))
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def _arrays(self) -> tuple[FloatArray, ...]:
        optional = (self.squared_norms, self.standard_errors)
        return (self.dots, *(array for array in optional if array is not None))


@dataclass(frozen=True, eq=False)
class MixtureState:
    """All that a scheduler remembers.

    Attributes:
        weights: The instantaneous mixture alpha, a distribution of shape ``(K,)``.
        averaged_weights: Its moving average, of the same shape: what batches are sampled from.
        num_updates: Updates that were applied.
        num_skipped: Updates that were left out because a measurement was not finite, or too noisy
            for the rule.
    """

    weights: FloatArray
    averaged_weights: FloatArray
    num_updates: int
    num_skipped: int


class Scheduler(Protocol):
    """A rule that moves the mixture. Equal states and observations give equal bits."""

    @property
    def observes(self) -> AlignmentNeeds | None:
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
