"""What a decoder computes between its matrix products, in few passes over memory.

torch differentiates a formula operation by operation: each reads and writes whole tensors, and
keeps some. Here a formula and its gradient are one function each, with fewer operations or fewer
kept tensors. ``torch.compile`` fuses the plain formulas by itself, and gets those.
"""

# ruff: noqa: N803, N806 (shape suffixes are capitals)

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def rotate(heads_BHSE: Tensor, cosines_SE: Tensor, sines_SE: Tensor) -> Tensor:
    """Return heads whose pairs of features are turned by angles of their position.

    Feature ``e`` is paired with ``e + E / 2``. Computed in float32 at least, and rounded once.

    Args:
        heads_BHSE: Shape ``(b, heads, S, E)``, with E even.
        cosines_SE: Of the angles, in float32, the same in both halves of the features.
        sines_SE: Likewise.

    Returns:
        Shape, dtype and strides as of the heads.
    """
    if torch.compiler.is_compiling():
        first, second = heads_BHSE.chunk(2, dim=-1)
        turned_BHSE = torch.cat((-second, first), dim=-1)
        return (heads_BHSE * cosines_SE + turned_BHSE * sines_SE).to(heads_BHSE.dtype)
    return cast("Any", _Rotation).apply(heads_BHSE, cosines_SE, sines_SE, 1.0)


class _Rotation(torch.autograd.Function):
    """Rotation by an angle times a sign; its gradient is rotated back. Keeps no heads."""

    @staticmethod
    def forward(
        ctx: Any, heads_BHSE: Tensor, cosines_SE: Tensor, sines_SE: Tensor, sign: float
    ) -> Tensor:
        """Return the rotated heads."""
        ctx.save_for_backward(cosines_SE, sines_SE)
        ctx.sign = sign
        precise_BHSE = heads_BHSE.to(_precise(heads_BHSE))
        cosines_SE, sines_SE = cosines_SE.to(precise_BHSE), sines_SE.to(precise_BHSE)
        first, second = precise_BHSE.chunk(2, dim=-1)
        sines = sines_SE[..., : first.shape[-1]]
        rotated_BHSE = precise_BHSE * cosines_SE
        rotated_first, rotated_second = rotated_BHSE.chunk(2, dim=-1)
        rotated_first.addcmul_(second, sines, value=-sign)
        rotated_second.addcmul_(first, sines, value=sign)
        return rotated_BHSE.to(heads_BHSE.dtype)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_BHSE: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the heads."""
        cosines_SE, sines_SE = ctx.saved_tensors
        turned: Tensor = cast("Any", _Rotation).apply(
            gradient_BHSE, cosines_SE, sines_SE, -ctx.sign
        )
        return turned, None, None, None


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``, with its bits; all of one shape.

    Of accelerators it saves memory: only the arguments are kept for the backward pass, and
    ``silu(gate)`` is computed again, for two reads and writes more of 14. A CPU takes a quarter
    more time for that, and keeps it. Can be differentiated once.
    """
    if gate.device.type == "cpu" or torch.compiler.is_compiling():
        return functional.silu(gate) * up
    return gated_again(gate, up)


def gated_again(gate: Tensor, up: Tensor) -> Tensor:
    """Return the same on any device, and compute ``silu(gate)`` again in the backward pass."""
    return cast("Any", _Gated).apply(gate, up)


class _Gated(torch.autograd.Function):
    """SwiGLU's product."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of both."""
        gate, up = ctx.saved_tensors
        activated = functional.silu(gate)
        of_up = gradient * activated
        torch.mul(gradient, up, out=activated)
        of_gate: Tensor = torch.ops.aten.silu_backward.grad_input(
            activated, gate, grad_input=activated
        )
        return of_gate, of_up


def rms_norm(inputs: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Return ``inputs / sqrt(mean(inputs^2) + epsilon) * weight`` over the last dimension.

    It is computed in float32 at least, and rounded once. torch has one kernel of it for
    accelerators; on a CPU, several, which keep tensors between them. There it can be
    differentiated once.

    Args:
        inputs: Shape ``(..., D)``.
        weight_D: Of the same dtype.
        epsilon: Above 0.
    """
    if inputs.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.rms_norm(inputs, weight_D.shape, weight_D, epsilon)
    return cast("Any", _RMSNorm).apply(inputs, weight_D, epsilon)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm on a CPU. Keeps its input, and a number of each row."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        """Return the normalised rows times the weight."""
        precise = inputs.to(_precise(inputs))
        norms: Tensor = cast("Any", torch.linalg).vector_norm(precise, dim=-1, keepdim=True)
        scales = norms.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight_D, scales)
        return (precise * scales).mul_(weight_D.to(precise)).to(inputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of inputs and weight."""
        inputs, weight_D, scales = ctx.saved_tensors
        normalised = inputs.to(scales) * scales
        precise, weight = gradient.to(scales), weight_D.to(scales)
        products = precise * normalised
        of_weight = products.flatten(0, -2).sum(0)
        shares = (products @ weight).div_(inputs.shape[-1])[..., None]
        of_inputs = torch.mul(precise, weight, out=products)
        of_inputs.addcmul_(normalised, shares, value=-1.0).mul_(scales)
        return of_inputs.to(inputs.dtype), of_weight.to(weight_D.dtype), None


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
