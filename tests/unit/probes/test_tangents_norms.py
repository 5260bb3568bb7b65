"""Normalisations against autograd, a sequence at a time."""

from collections.abc import Callable

import pytest
from torch import nn

from megadga.model.llama import RMSNorm
from megadga.probes.gradients import ResidentDirection
from megadga.probes.tangents import NormTangent, choose_tangent
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
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm(kind: str):
    module = filled(NORMS[kind]())
    pieces = pieces_of(module)
    direction = ResidentDirection(pieces)
    check_tangent(module, direction, pieces, normal(B, S, WIDTH), num_sequences=B)
    assert isinstance(choose_tangent(module, direction), NormTangent)


def test_a_norm_whose_weight_is_a_matrix_takes_thin_factors_of_it():
    module = filled(nn.LayerNorm([S, WIDTH]))
    factored, products = thin(pieces_of(module))
    inputs = normal(B, S, WIDTH)
    check_tangent(module, ResidentDirection(factored), products, inputs, num_sequences=B)
