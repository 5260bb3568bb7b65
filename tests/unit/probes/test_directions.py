"""A direction whose pieces are all at hand."""

import torch
from torch import nn

from megadga.probes.gradients import Factors, ResidentDirection

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
