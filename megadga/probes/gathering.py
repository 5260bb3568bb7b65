"""A direction whose large pieces are sharded over the ranks, gathered shortly before their use."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

from megadga.probes.gradients import Factors, full_shape, num_elements

_BUCKET = 1 << 22  # elements that are gathered at once, and held twice while they are


_SMALL = 1 << 16  # elements of a piece that every rank keeps


_AHEAD = 1 << 20  # elements: a matrix of width 1,024, and of wider models one at a time


class Gather(Protocol):
    """An all-gather that was started."""

    def rows(self) -> Tensor:
        """Wait, and return every rank's part, shape ``(world_size, elements)``."""
        ...


class Gatherers(Protocol):
    """The ranks that hold the parts of a direction."""

    def all_gather(self, own: Tensor) -> Tensor:
        """Return every rank's ``own``, shape ``(world_size, elements)``. Collective."""
        ...

    def start_all_gather(self, own: Tensor) -> Gather:
        """Start the same, and return at once. Collective."""
        ...


@final
class PieceOrder:
    """The order in which a pass asks for the pieces of a direction: as the pass before did.

    A pass that asks for others is believed: the order is its own from there on.
    """

    def __init__(self) -> None:
        self._pieces: list[nn.Parameter] = []
        self._place = 0

    def begin(self) -> None:
        """Begin a pass."""
        self._place = 0

    def take(self, piece: nn.Parameter) -> bool:
        """Note what is asked for; tell whether it is what the order had there."""
        expected = self._place < len(self._pieces) and self._pieces[self._place] is piece
        if not expected:
            self._pieces[self._place :] = [piece]
        self._place += 1
        return expected

    def following(self, number: int) -> nn.Parameter | None:
        """Return what is asked for after ``number`` other pieces; None if the pass ends before."""
        place = self._place + number
        return self._pieces[place] if place < len(self._pieces) else None

    def repeats(self, piece: nn.Parameter) -> bool:
        """Tell whether a piece was the last of a pass, and is the first of the next one."""
        return self._place == len(self._pieces) and self._pieces[0] is piece


@dataclass(frozen=True, eq=False)
class _Piece:
    """A piece that is being gathered, or was."""

    parameter: nn.Parameter
    gather: Gather

    def whole(self) -> Tensor:
        """Wait for it, and return it in its parameter's shape."""
        elements = self.gather.rows().reshape(-1)[: num_elements(self.parameter)]
        return elements.view(full_shape(self.parameter))


@final
class GatheredDirection:
    """A direction whose large pieces are sharded over the ranks.

    While a piece is used the next ones are gathered, in the order in which the pass before asked
    for them. Every rank asks for the same pieces in the same order, so every rank also starts the
    same gathers in the same order, and a pass that differs from the one before does so on all.

    Memory: beside the shard, the piece in use and those ahead of it.

    Args:
        own: This rank's part of each piece.
        collective: The ranks that hold the others.
        order: Of the passes before, which a direction leaves to the next.
        scale: See ``Direction``.
        small: Elements of a piece, at most, that every rank keeps whole.
        ahead: Elements that are gathered ahead of their use, at most; one piece always is.
    """

    def __init__(
        self,
        own: dict[nn.Parameter, Tensor],
        collective: Gatherers,
        order: PieceOrder,
        *,
        scale: float,
        small: int = _SMALL,
        ahead: int = _AHEAD,
    ) -> None:
        self.scale = scale
        self._collective = collective
        self._order = order
        kept = [p for p in own if num_elements(p) <= small]
        self._resident = gathered(kept, own, collective)
        self._own = {p: part for p, part in own.items() if p not in self._resident}
        self._most_ahead = ahead
        self._ahead: deque[_Piece] = deque()
        self._last: _Piece | None = None

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter in self._resident or parameter in self._own

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``: there are none."""
        assert parameter in self
        return None

    def begin_pass(self) -> None:
        """See ``Direction``. Collective: starts to gather the first pieces."""
        self._order.begin()
        self._forget_ahead()
        last, self._last = self._last, None
        if last is not None and self._order.following(0) is last.parameter:
            self._ahead.append(last)
        self._gather_ahead()

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``. Collective unless the piece is small."""
        if parameter in self._resident:
            return self._resident[parameter]
        if not self._order.take(parameter):
            self._forget_ahead()
        piece = self._ahead.popleft() if self._ahead else self._start(parameter)
        assert piece.parameter is parameter
        self._gather_ahead()
        # Of tied embeddings, used by the last module and by the first.
        self._last = piece if self._order.repeats(parameter) else None
        return piece.whole()

    def _gather_ahead(self) -> None:
        waiting = sum(num_elements(each.parameter) for each in self._ahead)
        while (upcoming := self._order.following(len(self._ahead))) is not None:
            waiting += num_elements(upcoming)
            if self._ahead and waiting > self._most_ahead:
                return
            self._ahead.append(self._start(upcoming))

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._ahead.popleft().whole()  # a collective that was started must end

    def _start(self, parameter: nn.Parameter) -> _Piece:
        part = self._own[parameter].flatten()
        return _Piece(parameter, self._collective.start_all_gather(part))


def gathered(
    parameters: Sequence[nn.Parameter],
    own: dict[nn.Parameter, Tensor],
    collective: Gatherers,
) -> dict[nn.Parameter, Tensor]:
    """Return whole pieces, gathered bucket by bucket. Collective.

    Args:
        parameters: Whose pieces.
        own: This rank's part of each.
        collective: The ranks that hold the others.
    """
    pieces: dict[nn.Parameter, Tensor] = {}
    for bucket in _buckets(parameters):
        parts = [own[p].flatten() for p in bucket]
        rows = collective.all_gather(torch.cat(parts) if len(parts) > 1 else parts[0])
        columns = rows.split([own[p].numel() for p in bucket], dim=1)
        for parameter, column in zip(bucket, columns, strict=True):
            whole = column.reshape(-1)[: num_elements(parameter)]
            pieces[parameter] = whole.view(full_shape(parameter))
    return pieces


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Group parameters into buckets of one dtype and limited size."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(map(num_elements, bucket)) >= _BUCKET
        if bucket and (full or bucket[0].dtype != parameter.dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
