"""Where the sequences of a micro-batch lie in a tensor, and inner products of each one's part."""

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import final

import torch
from torch import Tensor

_PRECISE = (torch.float32, torch.float64)  # that inner products are computed in
_CONVERTED = 1 << 22  # elements that are held in another precision at once
_WAITING = 1 << 22  # elements that are kept to be multiplied together, at most
_FEW, _FEW_ON_CPU = 1 << 18, 1 << 15  # elements of an operand whose copy takes less than a call


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
        """Return a tensor with one row per sequence, or one per number if rows are numbered."""
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
        """Return the sum of each sequence's rows of `matrix`, shape ``(num_sequences, n)``.

        Args:
            dots: Numbers of each row, shape ``(rows, n)``.
        """
        if self.numbers is None:
            return dots
        sums = dots.new_zeros((self.num_sequences, dots.shape[1]), dtype=torch.float64)
        return sums.index_add(0, self.numbers.flatten(), dots.double())


def sequence_dots(left: Tensor, right: Tensor, rows: SequenceRows) -> Tensor:
    """Return the inner product of each sequence's part, shape ``(num_sequences, summands)``.

    It is multiplied and added up in float32 at least: products of bfloat16 that are rounded to
    bfloat16 again are off by 1e-3 of the inner product. A GPU leaves several summands.

    Args:
        left: Has the sequences where ``rows`` says.
        right: Of a shape that broadcasts to ``left``'s.
        rows: Says which elements of ``left`` are of which sequence.
    """
    if right.shape != left.shape:
        right = right.expand_as(left)
    left, right = rows.matrix(left), rows.matrix(right)
    if left.device.type == "cuda" and left.numel() and _has_triton():
        from megadga.probes.row_dots import row_dots  # noqa: PLC0415  (torch for CPUs has no Triton)

        return rows.total(row_dots(left, right))
    return rows.total(row_dots_by_torch(left, right))


@final
class SequenceSums:
    """The sums, over modules, of inner products of the sequences of a micro-batch.

    A module costs no operations of its own but those of its operands: where they are small, as
    along a direction of low rank, they wait for those of other modules and are multiplied with
    them; inner products are added up once at the end, in float64.
    """

    def __init__(self) -> None:
        self._dots: list[Tensor] = []
        self._lefts: list[Tensor] = []
        self._rights: list[Tensor] = []
        self._num_waiting = 0

    def add(self, left: Tensor, right: Tensor, rows: SequenceRows) -> None:
        """Add the inner product of each sequence's part; see ``sequence_dots``."""
        few = left.numel() <= (_FEW_ON_CPU if left.is_cpu else _FEW)
        if not few or rows.numbers is not None or left.shape != right.shape:
            self._dots.append(sequence_dots(left, right, rows))
            return
        self._lefts.append(rows.matrix(left).detach())  # a gradient may have a graph of its own
        self._rights.append(rows.matrix(right))
        self._num_waiting += left.numel()
        if self._num_waiting > _WAITING:
            self._multiply()

    def total(self) -> Tensor | None:
        """Return the sums so far, float64, shape ``(num_sequences,)``; None: nothing was added.

        Nothing but the sums is held afterwards.
        """
        if self._lefts:
            self._multiply()
        if not self._dots:
            return None
        self._dots = [torch.cat(self._dots, dim=1).sum(1, keepdim=True, dtype=torch.float64)]
        return self._dots[0][:, 0]

    def _multiply(self) -> None:
        left, right = torch.cat(self._lefts, dim=1), torch.cat(self._rights, dim=1)
        self._dots.append(sequence_dots(left, right, SequenceRows(len(left))))
        self._lefts, self._rights, self._num_waiting = [], [], 0


def row_dots_by_torch(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of each row by torch's operations, shape ``(rows, 1)``.

    Float64 if there are more parts than one.

    Args:
        left: A matrix.
        right: Of its shape.
    """
    if left.dtype == right.dtype and left.dtype in _PRECISE:
        return (left * right).sum(1, keepdim=True)
    precise = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    columns = max(1, _CONVERTED // max(1, left.shape[0]))  # so that no whole copy is ever held
    if left.shape[1] <= columns:
        return (left.to(precise) * right.to(precise)).sum(1, keepdim=True)
    dots = torch.zeros((left.shape[0], 1), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], columns):
        part = slice(start, start + columns)
        products = left[:, part].to(precise) * right[:, part].to(precise)
        dots += products.sum(1, keepdim=True)
    return dots


@cache
def _has_triton() -> bool:
    """Tell whether Triton is installed, as it is with torch for CUDA and ROCm on Linux."""
    return find_spec("triton") is not None
