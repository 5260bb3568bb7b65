"""Projections and embeddings against autograd, a sequence at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from megadga.probes.choosing_tangents import choose_tangent
from megadga.probes.gradients import ResidentDirection
from megadga.probes.sequence_rows import SequenceRows, sequence_dots
from megadga.probes.tangents import Call
from tests.support.derivatives import check_tangent, filled, normal, pieces_of, thin

B, S, INPUTS, OUTPUTS = 3, 5, 4, 6


def without_weight(module: nn.Module) -> nn.Module:
    module.get_parameter("weight").requires_grad_(False)
    return module


def without_bias(module: nn.Module) -> nn.Module:
    module.get_parameter("bias").requires_grad_(False)
    return module


PROJECTIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(INPUTS, OUTPUTS),
    "linear without bias": lambda: nn.Linear(INPUTS, OUTPUTS, bias=False),
    "linear, weight frozen": lambda: without_weight(nn.Linear(INPUTS, OUTPUTS)),
    "linear, bias frozen": lambda: without_bias(nn.Linear(INPUTS, OUTPUTS)),
    "transposed": lambda: Conv1D(OUTPUTS, INPUTS),
    "transposed, weight frozen": lambda: without_weight(Conv1D(OUTPUTS, INPUTS)),
    "transposed, bias frozen": lambda: without_bias(Conv1D(OUTPUTS, INPUTS)),
}


@pytest.fixture(params=PROJECTIONS)
def projection(request: pytest.FixtureRequest) -> nn.Module:
    return filled(PROJECTIONS[request.param]())


def test_a_projection_along_a_dense_direction(projection: nn.Module):
    pieces = pieces_of(projection)
    inputs = normal(B, S, INPUTS)
    check_tangent(projection, ResidentDirection(pieces), pieces, inputs, num_sequences=B)


def test_a_projection_along_thin_factors_is_that_along_their_product(projection: nn.Module):
    factored, products = thin(pieces_of(projection))
    inputs = normal(B, S, INPUTS)
    check_tangent(projection, ResidentDirection(factored), products, inputs, num_sequences=B)


def test_factors_of_no_rank_leave_the_bias_alone():
    module = filled(nn.Linear(INPUTS, OUTPUTS))
    factored, products = thin(pieces_of(module), rank=0)
    inputs = normal(B, S, INPUTS)
    check_tangent(module, ResidentDirection(factored), products, inputs, num_sequences=B)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("shape", [(B, INPUTS), (B, 2, S, INPUTS), (1, S, INPUTS)])
def test_inputs_may_have_any_axes_and_be_shared(shape: tuple[int, ...], *, factored: bool):
    module = filled(nn.Linear(INPUTS, OUTPUTS))
    pieces = pieces_of(module)
    given, dense = thin(pieces) if factored else (pieces, pieces)
    check_tangent(module, ResidentDirection(given), dense, normal(*shape), num_sequences=B)


@pytest.mark.parametrize(("kind", "name"), [("linear", "input"), ("transposed", "x")])
def test_the_input_may_be_given_by_name(kind: str, name: str):
    module = filled(PROJECTIONS[kind]())
    pieces = pieces_of(module)
    named = {name: normal(B, S, INPUTS)}
    check_tangent(module, ResidentDirection(pieces), pieces, named=named, num_sequences=B)


def test_thin_factors_keep_rank_numbers_of_each_token():
    module = filled(nn.Linear(INPUTS, OUTPUTS, bias=False))
    factored, _ = thin(pieces_of(module), rank=2)
    kept = kept_by(module, factored)
    assert [None if tensor is None else tensor.shape for tensor in kept] == [(B, S, 2)]


def test_a_bias_alone_keeps_nothing():
    module = filled(without_weight(nn.Linear(INPUTS, OUTPUTS)))
    assert kept_by(module, pieces_of(module)) == ()


def kept_by(module: nn.Module, pieces) -> tuple[torch.Tensor | None, ...]:
    tangent = choose_tangent(module, ResidentDirection(pieces))
    assert tangent is not None
    return tangent.kept(Call((normal(B, S, INPUTS),), {}, ()))


ROWS, WIDTH = 7, 4


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_an_embedding(padding: int | None, *, factored: bool):
    module = filled(nn.Embedding(ROWS, WIDTH, padding_idx=padding))
    pieces = pieces_of(module)
    given, dense = thin(pieces) if factored else (pieces, pieces)
    ids = torch.tensor([[0, 2, 2, 6, 5], [2, 2, 2, 2, 1], [6, 6, 3, 0, 0]])
    check_tangent(module, ResidentDirection(given), dense, ids, num_sequences=B)


@pytest.mark.parametrize("factored", [False, True])
def test_an_embedding_of_ids_that_all_sequences_share(*, factored: bool):
    module = filled(nn.Embedding(ROWS, WIDTH))
    pieces = pieces_of(module)
    given, dense = thin(pieces) if factored else (pieces, pieces)
    check_tangent(module, ResidentDirection(given), dense, torch.arange(S)[None], num_sequences=B)


def test_an_embedding_that_bounds_the_norm_of_its_rows():
    module = filled(nn.Embedding(ROWS, WIDTH, max_norm=0.5))
    pieces = pieces_of(module)
    ids = torch.tensor([[0, 2], [1, 1], [6, 3]])
    check_tangent(module, ResidentDirection(pieces), pieces, ids, num_sequences=B)


@pytest.mark.parametrize("columns", [7, 3_000_001])
def test_inner_products_of_half_precision_are_as_exact_as_those_of_single(columns: int):
    left, right = (normal(2, columns, seed=seed).bfloat16() for seed in (1, 2))

    found = sequence_dots(left, right, SequenceRows(2)).double().sum(1)

    products = left.double() * right.double()
    error = (found - products.sum(1)).abs() / products.abs().sum(1)
    assert error.max() < torch.finfo(torch.float32).eps
