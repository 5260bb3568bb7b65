"""Tangents of normalisations: the normalised input times the direction. Knows no other layer."""

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from megadga.alignment.directions import Direction
from megadga.alignment.tangents.tangent import Call, SequenceRows, Trace, sequence_dots


@final
class NormTangent:
    """The tangent of ``y = normalised(x) * w + b``: the same with the direction's ``w`` and ``b``.

    Args:
        module: Normalises over its last dimensions.
        direction: May lack a piece for the weight or the bias.
    """

    def __init__(self, module: nn.LayerNorm | nn.RMSNorm, direction: Direction) -> None:
        self._module = module
        self._direction = direction

    def trace(self, call: Call, rows: Sequence[SequenceRows]) -> Trace:
        """Keep the input."""
        return Trace((call.input.detach(),), partial(self._derivatives, *rows))

    def _derivatives(
        self, rows: SequenceRows, gradients: Sequence[Tensor | None], kept: tuple[Tensor, ...]
    ) -> Tensor:
        (gradient,) = gradients
        (inputs,) = kept
        assert gradient is not None
        module = self._module
        shape = list(module.normalized_shape)
        weight = self._piece(module.weight, inputs)
        if weight is None:
            weight = torch.zeros(shape, dtype=inputs.dtype, device=inputs.device)
        if isinstance(module, nn.RMSNorm):
            change = functional.rms_norm(inputs, shape, weight, module.eps)
        else:
            bias = self._piece(module.bias, inputs)
            change = functional.layer_norm(inputs, shape, weight, bias, module.eps)
        return sequence_dots(gradient, change.to(gradient.dtype), rows)

    def _piece(self, parameter: nn.Parameter | None, inputs: Tensor) -> Tensor | None:
        if parameter is None or parameter not in self._direction:
            return None
        return self._direction.dense(parameter).to(inputs.dtype)
