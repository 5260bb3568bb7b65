"""A direction in the space of a model's parameters, a piece a parameter. Knows no gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix as the product ``left @ right.T`` of thin ones.

    Attributes:
        left: Shape ``(rows, rank)``.
        right: Shape ``(columns, rank)``.
    """

    left: Tensor
    right: Tensor


class Direction(Protocol):
    """What a derivative is taken along."""

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Tell whether the direction has a piece for a parameter; without one it is 0 there."""
        ...

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """Return a parameter's piece if it is kept as thin factors, else None."""
        ...

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """Return a parameter's piece whole, of its shape.

        Collective where pieces are spread over ranks: every rank asks for the same parameters in
        the same order.
        """
        ...


@final
class ResidentDirection:
    """A direction of which every rank holds all pieces.

    Args:
        pieces: Each whole, of its parameter's shape, or as factors.
    """

    def __init__(self, pieces: Mapping[nn.Parameter, Tensor | Factors]) -> None:
        self._pieces = pieces

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter in self._pieces

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``."""
        piece = self._pieces[parameter]
        return piece if isinstance(piece, Factors) else None

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``. Communicates nothing."""
        piece = self._pieces[parameter]
        return piece.left @ piece.right.T if isinstance(piece, Factors) else piece


@final
class OnePiece:
    """A direction along which a single parameter moves.

    Args:
        direction: Has the piece.
        parameter: Moves.
    """

    def __init__(self, direction: Direction, parameter: nn.Parameter) -> None:
        self._direction = direction
        self._parameter = parameter

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter is self._parameter

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``."""
        assert parameter in self
        return self._direction.factors(parameter)

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``, also for what is collective."""
        assert parameter in self
        return self._direction.dense(parameter)
