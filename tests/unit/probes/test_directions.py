"""A direction whose pieces are all at hand, and its scale where they are stored in float16."""

import math

import pytest
import torch
from torch import nn

from megadga.probes.gradients import Factors, ResidentDirection, storage_scale

WEIGHT, BIAS, OTHER = (nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (3,), (3,)))
FACTORS = Factors(torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[3.0], [-1.0]]))
PIECE = torch.tensor([1.0, 2.0, 3.0])
DIRECTION = ResidentDirection({WEIGHT: FACTORS, BIAS: PIECE})


def test_it_holds_what_it_has_a_piece_for_even_if_another_parameter_is_equal():
    assert WEIGHT in DIRECTION
    assert BIAS in DIRECTION
    assert OTHER not in DIRECTION


def test_a_whole_piece_is_given_as_it_is():
    assert DIRECTION.factors(BIAS) is None
    assert DIRECTION.dense(BIAS) is PIECE


def test_factors_are_given_as_they_are_or_multiplied():
    assert DIRECTION.factors(WEIGHT) is FACTORS
    assert DIRECTION.dense(WEIGHT).tolist() == [[3.0, -1.0], [6.0, -2.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_direction_is_scaled_that_is_not_stored_in_float16(dtype: torch.dtype):
    assert storage_scale([nn.Parameter(torch.zeros(3, dtype=dtype))], 1e-9) == 1.0


@pytest.mark.parametrize("length", [1e-12, 3e-7, 1.0, 5e4])
def test_in_float16_a_direction_keeps_all_bits_whatever_its_length(length: float):
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient *= length / gradient.norm()
    parameter = nn.Parameter(torch.zeros(1000, dtype=torch.float16))

    scale = storage_scale([parameter], length)
    stored = (gradient * scale).to(torch.float16).double() / scale

    assert math.frexp(scale)[0] == 0.5  # a power of two: multiplying by it rounds nothing
    assert (stored - gradient).norm() < 2.0**-11 * length


@pytest.mark.parametrize("length", [0.0, math.inf, math.nan])
def test_a_direction_without_a_length_is_not_scaled(length: float):
    parameter = nn.Parameter(torch.zeros(1000, dtype=torch.float16))

    assert storage_scale([parameter], length) == 1.0
