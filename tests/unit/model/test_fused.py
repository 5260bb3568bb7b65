"""What is computed between matrix products, against torch's own operations."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megadga.model.fused import gated_again, rms_norm, rotate

B, S, H, E, D = 2, 5, 3, 8, 24
ROUNDING = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def tables() -> tuple[Tensor, Tensor]:
    angles = (torch.arange(S)[:, None] * 0.3 ** torch.arange(E // 2)).repeat(1, 2)
    return angles.cos(), angles.sin()


def turned(heads: Tensor) -> Tensor:
    cosines, sines = tables()
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines


def norm(inputs: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(inputs, (D,), weight, 1e-5)


def activated(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def exact(formula: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor):
    """Outputs and gradients in float64, from what the inputs are rounded to."""
    wide = [each.detach().double().requires_grad_() for each in inputs]
    outputs = formula(*wide)
    return [outputs, *torch.autograd.grad(outputs, wide, gradient.double())]


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("function", "formula", "shapes"),
    [
        (lambda heads: rotate(heads, *tables()), turned, [(B, H, S, E)]),
        (lambda inputs, weight: rms_norm(inputs, weight, 1e-5), norm, [(B, S, D), (D,)]),
        (gated_again, activated, [(B, S, D), (B, S, D)]),
    ],
    ids=["rotate", "rms_norm", "gated"],
)
def test_outputs_and_gradients_are_those_of_the_formula(function, formula, shapes, dtype):
    inputs = [
        normal(*shape, dtype=dtype, seed=index).requires_grad_()
        for index, shape in enumerate(shapes)
    ]
    gradient = normal(*shapes[0], dtype=dtype, seed=9)

    outputs = function(*inputs)
    found = [outputs, *torch.autograd.grad(outputs, inputs, gradient)]

    for one, other, like in zip(
        found, exact(formula, inputs, gradient), [outputs, *inputs], strict=True
    ):
        assert one.dtype == like.dtype == dtype
        # No more than four roundings of the largest number that is added up.
        assert (one.double() - other).abs().max() <= 4 * ROUNDING[dtype] * other.abs().max()


def test_silu_times_up_has_the_bits_of_torch():
    gate, up = (normal(B, S, D, dtype=torch.float32, seed=n).requires_grad_() for n in (1, 2))
    gradient = normal(B, S, D, dtype=torch.float32, seed=3)

    found, expected = gated_again(gate, up), activated(gate, up)

    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, (gate, up), gradient),
        torch.autograd.grad(expected, (gate, up), gradient),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_heads_keep_their_strides_so_that_attention_copies_nothing():
    heads = normal(B, S, H, E, dtype=torch.float32).transpose(1, 2)

    assert rotate(heads, *tables()).stride() == heads.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_kept_but_arguments_and_a_number_of_each_row(dtype):
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    heads = normal(B, H, S, E, dtype=dtype).requires_grad_()
    inputs, other = (normal(B, S, D, dtype=dtype, seed=n).requires_grad_() for n in (1, 2))
    weight = normal(D, dtype=dtype).requires_grad_()
    cosines, sines = tables()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rotate(heads, cosines, sines)
        gated_again(inputs, other)
        rms_norm(inputs, weight, 1e-5)

    given = {each.data_ptr() for each in (heads, inputs, other, weight, cosines, sines)}
    assert heads.data_ptr() not in {each.data_ptr() for each in kept}
    new = [each for each in kept if each.data_ptr() not in given]
    assert [tuple(each.shape) for each in new] == [(B, S, 1)]
