"""The protocol of a tangent, and the inner products it is made of. Knows no module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """What a module was called with.

    Attributes:
        positional: Its positional arguments.
        named: Its keyword arguments.
        random_states: Those that it drew from (see ``randomness``): before the call, since by the
            time its outputs are seen dropout has moved on.
    """

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    random_states: tuple[Tensor, ...]

    @property
    def input(self) -> Tensor:
        """The one input of a module such as ``nn.Linear``, however it was passed."""
        (argument,) = (*self.positional, *self.named.values())
        return argument


@dataclass(frozen=True, eq=False)
class Trace:
    """What is left of a forward call for the backward pass.

    Attributes:
        kept: The tensors that the derivative needs; they go through autograd's saved tensors, so
            that activation checkpointing can drop and recompute them.
        derivatives: From the gradients with respect to the module's outputs (those that are
            tensors, batch first; None where the loss does not depend on one) and the kept tensors
            to ``<delta_s, dy_s>`` of each sequence, float64, shape ``(num_sequences,)``.
    """

    kept: tuple[Tensor, ...]
    derivatives: Callable[[Sequence[Tensor | None], tuple[Tensor, ...]], Tensor]


class Tangent(Protocol):
    """The derivative ``dy`` of one module's outputs along a direction of its own parameters."""

    def trace(self, call: Call, num_sequences: int) -> Trace:
        """Return what the derivative of one forward call will need, and how it is computed.

        Args:
            call: What the module was called with.
            num_sequences: Sequences of the micro-batch.
        """
        ...


def sequence_dots(left: Tensor, right: Tensor, num_sequences: int) -> Tensor:
    """Return the inner product of each sequence's part, float64, shape ``(num_sequences,)``.

    Args:
        left: Shape ``(num_sequences, ...)``.
        right: Of a shape that broadcasts to ``left``'s.
        num_sequences: Sequences of the micro-batch.
    """
    right = right.expand_as(left).reshape(num_sequences, -1)
    return _vecdot(left.reshape(num_sequences, -1), right).double()


_vecdot = cast("Callable[[Tensor, Tensor], Tensor]", torch.linalg.vecdot)
