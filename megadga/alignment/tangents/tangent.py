"""The protocol of a tangent, and the inner products it is made of. Knows no module."""

import math
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
            tensors; None where the loss does not depend on one) and the kept tensors
            to ``<delta_s, dy_s>`` of each sequence, float64, shape ``(num_sequences,)``.
    """

    kept: tuple[Tensor, ...]
    derivatives: Callable[[Sequence[Tensor | None], tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, eq=False)
class SequenceRows:
    """Which elements of a tensor belong to which sequence of the micro-batch.

    Attributes:
        num_sequences: Of the micro-batch.
        axis: The axis along which the sequences lie, each as many elements of it; every element of
            the tensor belongs to the only one where there is one.
        interleaved: Whether the sequences take turns along the axis, instead of lying one after
            another.
        numbers: The sequence of each index of the first axes where that follows no such rule,
            int64, of the tensor's leading shape; None where it does.
    """

    num_sequences: int
    axis: int = 0
    interleaved: bool = False
    numbers: Tensor | None = None

    def matrix(self, tensor: Tensor) -> Tensor:
        """Return a tensor with a row a sequence; or, where they are numbered, a row a number."""
        if self.numbers is not None:
            trailing = math.prod(tensor.shape[self.numbers.ndim :])  # there may be no rows
            return tensor.reshape(self.numbers.numel(), trailing)
        if self.num_sequences == 1 or (self.axis == 0 and not self.interleaved):
            return tensor.reshape(self.num_sequences, -1)
        if self.interleaved:
            shape = tensor.shape
            turns = (shape[self.axis] // self.num_sequences, self.num_sequences)
            sequences = tensor.reshape(*shape[: self.axis], *turns, *shape[self.axis + 1 :])
            return sequences.movedim(self.axis + 1, 0).reshape(self.num_sequences, -1)
        return tensor.movedim(self.axis, 0).reshape(self.num_sequences, -1)

    def total(self, dots: Tensor) -> Tensor:
        """Return the sum of each sequence's rows of `matrix`, shape ``(num_sequences,)``."""
        if self.numbers is None:
            return dots
        return dots.new_zeros(self.num_sequences).index_add(0, self.numbers.flatten(), dots)


class Tangent(Protocol):
    """The derivative ``dy`` of one module's outputs along a direction of its own parameters."""

    def trace(self, call: Call, rows: Sequence[SequenceRows]) -> Trace:
        """Return what the derivative of one forward call will need, and how it is computed.

        Args:
            call: What the module was called with.
            rows: Of each of its outputs that is a floating-point tensor, in their order.
        """
        ...


def sequence_dots(left: Tensor, right: Tensor, rows: SequenceRows) -> Tensor:
    """Return the inner product of each sequence's part, float64, shape ``(num_sequences,)``.

    Args:
        left: Has the sequences where ``rows`` says.
        right: Of a shape that broadcasts to ``left``'s.
        rows: Says which elements of ``left`` are of which sequence.
    """
    right = rows.matrix(right.expand_as(left))
    return rows.total(_vecdot(rows.matrix(left), right).double())


_vecdot = cast("Callable[[Tensor, Tensor], Tensor]", torch.linalg.vecdot)
