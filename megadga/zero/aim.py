"""What domains are compared with in one update. Knows no domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

from megadga.alignment.directions import Direction
from megadga.alignment.packing import PackedSequences
from megadga.zero.directions import spread_direction
from megadga.zero.passes import ProbePasses
from megadga.zero.specific import Preconditioning, specific_gradient


@dataclass(frozen=True, eq=False)
class Aim:
    """A direction ``d`` and what is known of it.

    Attributes:
        direction: ``d``, in pieces.
        squared_norm: ``|v|^2`` of the specific gradient; an estimate if ``d`` holds a part of it.
        slope: ``<v, d>``, the derivative of the specific loss along ``d``.
        length: ``|d|``.
        energy: Share of ``|v|^2`` that ``d`` holds, in ``[0, 1]``; an estimate below 1.
        age: Updates since it was measured.
        preconditioned: Whether ``d`` is ``v`` divided by AdamW's denominators.
    """

    direction: Direction
    squared_norm: float
    slope: float
    length: float
    energy: float = 1.0
    age: int = 0
    preconditioned: bool = False


class AimSource(Protocol):
    """A way to find the direction of an update."""

    def aim(self, update: int, specific: PackedSequences) -> Aim:
        """Return the direction of an update. Collective; see each source for the memory."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on: tensors and numbers, equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...


@final
class WholeGradient:
    """Takes the specific gradient itself, or preconditioned by AdamW's second moments.

    Memory: a shard, and under ZeRO 0-2 one whole gradient of the parameters' dtype.

    Args:
        passes: Measure it.
        preconditioning: Whether it is divided by AdamW's denominators.
    """

    def __init__(self, passes: ProbePasses, preconditioning: Preconditioning) -> None:
        self._passes = passes
        self._preconditioning = preconditioning

    def aim(self, update: int, specific: PackedSequences) -> Aim:  # noqa: ARG002  (no memory)
        """See ``AimSource``."""
        found = specific_gradient(self._passes, specific, self._preconditioning)
        return Aim(
            direction=spread_direction(self._passes, found.shard),
            squared_norm=found.squared_norm,
            slope=found.slope,
            length=found.length,
            preconditioned=found.preconditioned,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: each update's direction is measured anew."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
