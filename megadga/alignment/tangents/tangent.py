"""The protocol of a tangent, and the inner products it is made of. Knows no module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

_CONVERTED = 1 << 22  # elements that are held in another precision at once


@dataclass(frozen=True, eq=False)
class Call:
    """What a module was called with.

    Attributes:
        positional: Its positional arguments.
        named: Its keyword arguments.
        random_states: Those that it drew from (see ``randomness``): before the call, since by the
            time its outputs are seen dropout has moved on.
        restart: Sets every other generator back to where the call began: Python's, numpy's, and
            those that modules hold. Only for modules that are called again.
    """

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    random_states: tuple[Tensor, ...]
    restart: Callable[[], None] = lambda: None

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

    It is multiplied and added up in float32 at least: products of bfloat16 that are rounded to
    bfloat16 again are off by 1e-3 of the inner product.

    Args:
        left: Shape ``(num_sequences, ...)``.
        right: Of a shape that broadcasts to ``left``'s.
        num_sequences: Sequences of the micro-batch.
    """
    right = right.expand_as(left).reshape(num_sequences, -1)
    left = left.reshape(num_sequences, -1)
    precise = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    if left.dtype == right.dtype == precise:
        return _vecdot(left, right).double()
    total = torch.zeros(num_sequences, dtype=torch.float64, device=left.device)
    columns = max(1, _CONVERTED // num_sequences)  # so that no whole copy is ever held
    for start in range(0, left.shape[1], columns):
        part = slice(start, start + columns)
        total += _vecdot(left[:, part].to(precise), right[:, part].to(precise)).double()
    return total


_vecdot = cast("Callable[[Tensor, Tensor], Tensor]", torch.linalg.vecdot)
