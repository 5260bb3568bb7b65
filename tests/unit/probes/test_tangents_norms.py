"""Normalisations against autograd, a sequence at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from megadga.model.llama import RMSNorm
from megadga.probes.choosing_tangents import choose_tangent
from megadga.probes.gradients import ResidentDirection
from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from megadga.probes.tangents import BackwardCall, NormTangent
from tests.support.derivatives import check_tangent, filled, normal, pieces_of, thin

B, S, WIDTH = 3, 5, 4


def frozen(module: nn.Module, name: str) -> nn.Module:
    module.get_parameter(name).requires_grad_(False)
    return module


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "layer norm without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "layer norm, weight frozen": lambda: frozen(nn.LayerNorm(WIDTH), "weight"),
    "layer norm, bias frozen": lambda: frozen(nn.LayerNorm(WIDTH), "bias"),
    "layer norm over two axes": lambda: nn.LayerNorm([S, WIDTH], eps=0.1),
    "RMS norm": lambda: nn.RMSNorm(WIDTH),
    "RMS norm of our decoder": lambda: RMSNorm(WIDTH),
    "RMS norm with an epsilon": lambda: nn.RMSNorm(WIDTH, eps=0.1),
    "RMS norm over two axes": lambda: nn.RMSNorm([S, WIDTH], eps=0.1),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm(kind: str):
    module = filled(NORMS[kind]())
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)
    assert isinstance(choose_tangent(module, direction), NormTangent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_rms_norm_on_a_cpu_has_the_derivatives_that_its_kernel_gives(dtype: torch.dtype):
    """By two numbers of each token, whatever autocast would round."""
    width = 257
    module = nn.RMSNorm(width, eps=0.1).to(dtype)
    inputs, delta, piece = (normal(B, S, width, seed=seed).to(dtype) for seed in (1, 2, 3))
    tangent = choose_tangent(module, ResidentDirection({module.weight: piece[0, 0]}))
    assert isinstance(tangent, NormTangent)
    sums = SequenceSums()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tangent.add_derivatives(sums, BackwardCall([delta], [inputs], [SequenceRows(B)]))
    found = sums.total()

    x, piece = inputs.double(), piece[0, 0].double()
    expected = delta.double() * functional.rms_norm(x, [width], piece, 0.1)
    allowed = torch.finfo(torch.float32).eps * expected.abs().sum((1, 2))
    assert found is not None
    assert ((found - expected.sum((1, 2))).abs() <= allowed).all()


def test_a_norm_whose_weight_is_a_matrix_takes_thin_factors_of_it():
    module = filled(nn.LayerNorm([S, WIDTH]))
    factored, products = thin(pieces_of(module))
    inputs = normal(B, S, WIDTH)
    check_tangent(module, ResidentDirection(factored), products, inputs, num_sequences=B)
