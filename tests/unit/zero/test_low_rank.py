"""Which thin factors are kept. Directions of real gradients: tests/distributed."""

import torch

from megadga.alignment.directions import Factors
from megadga.zero.low_rank import _fewest


def factors(*singular_values: float) -> Factors:
    """Return a matrix with orthonormal left factors and these singular values."""
    rank = len(singular_values)
    return Factors(torch.eye(rank + 1)[:, :rank], torch.diag(torch.tensor(singular_values)))


def test_the_largest_singular_values_of_all_matrices_are_kept_together():
    kept = _fewest([factors(3.0, 1.0), factors(2.0, 0.5)], 9.0 + 4.0)

    assert [each.left.shape[1] for each in kept] == [1, 1]
    assert [float(each.right.square().sum()) for each in kept] == [9.0, 4.0]


def test_a_model_without_large_matrices_has_no_factors_to_choose_from():
    assert _fewest([], 1.0) == []
