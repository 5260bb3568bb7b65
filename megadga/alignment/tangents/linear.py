"""Tangents of matrices: projections and embeddings. Knows nothing of where their inputs come from.

With ``y = x W^T + b`` and a direction ``(V, c)``, ``dy = x V^T + c``; with ``V = L R^T``,
``<delta, x V^T> = <delta L, x R>``, for which ``rank`` numbers of each token are kept.
"""

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.alignment.directions import Direction, Factors
from megadga.alignment.tangents.tangent import Call, SequenceRows, Trace, sequence_dots


@final
class LinearTangent:
    """The tangent of ``y = x W^T + b``.

    Args:
        weight: ``W``, shape ``(outputs, inputs)``; or its transpose.
        bias: ``b``, shape ``(outputs,)``, or None.
        direction: May lack a piece for either.
        transposed: Whether ``weight`` has shape ``(inputs, outputs)``.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        direction: Direction,
        *,
        transposed: bool = False,
    ) -> None:
        self._weight = weight if weight in direction else None
        self._bias = bias if bias is not None and bias in direction else None
        self._direction = direction
        self._transposed = transposed

    def trace(self, call: Call, rows: Sequence[SequenceRows]) -> Trace:
        """Keep the input, or its projection onto the right factor; nothing without a weight."""
        kept: tuple[Tensor, ...] = ()
        if self._weight is not None:
            inputs = call.input.detach()
            factors = self._factors(self._weight)
            kept = (inputs if factors is None else inputs @ factors.right.to(inputs.dtype),)
        return Trace(kept, partial(self._derivatives, *rows))

    def _derivatives(
        self, rows: SequenceRows, gradients: Sequence[Tensor | None], kept: tuple[Tensor, ...]
    ) -> Tensor:
        (gradient,) = gradients
        assert gradient is not None
        bias = None
        if self._bias is not None:
            bias = self._direction.dense(self._bias).to(gradient.dtype)
        if self._weight is None:
            assert bias is not None
            return sequence_dots(gradient, bias, rows)
        (inputs,) = kept
        if (factors := self._factors(self._weight)) is None:
            matrix = self._direction.dense(self._weight).to(gradient.dtype)
            change = functional.linear(
                inputs.to(gradient.dtype), matrix.T if self._transposed else matrix, bias
            )
            return sequence_dots(gradient, change, rows)
        reduced = gradient @ factors.left.to(gradient.dtype)
        dots = sequence_dots(reduced, inputs.to(gradient.dtype), rows)
        return dots if bias is None else dots + sequence_dots(gradient, bias, rows)

    def _factors(self, weight: nn.Parameter) -> Factors | None:
        factors = self._direction.factors(weight)
        if factors is None or not self._transposed:
            return factors
        return Factors(factors.right, factors.left)


@final
class EmbeddingTangent:
    """The tangent of ``y = W[ids]``: ``dy = V[ids]``, 0 at the row of padding.

    Args:
        module: The table; gradients scaled by frequency are no derivatives and not supported.
        direction: Has a piece for its weight.
    """

    def __init__(self, module: nn.Embedding, direction: Direction) -> None:
        self._weight = module.get_parameter("weight")
        self._padding = module.padding_idx
        self._direction = direction

    def trace(self, call: Call, rows: Sequence[SequenceRows]) -> Trace:
        """Keep the ids."""
        return Trace((call.input,), partial(self._derivatives, *rows))

    def _derivatives(
        self, rows: SequenceRows, gradients: Sequence[Tensor | None], kept: tuple[Tensor, ...]
    ) -> Tensor:
        (gradient,) = gradients
        (ids,) = kept
        assert gradient is not None
        factors = self._direction.factors(self._weight)
        if factors is None:
            table = self._direction.dense(self._weight)
        else:
            table = factors.left
            gradient = gradient @ factors.right.to(gradient.dtype)
        change = functional.embedding(ids, table).to(gradient.dtype)
        if self._padding is not None:
            change = torch.where((ids == self._padding).unsqueeze(-1), 0.0, change)
        return sequence_dots(gradient, change, rows)
