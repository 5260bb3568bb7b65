"""Thin factors against singular value decompositions that are known because we made them."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from megadga.probes.gradients import Factors
from megadga.probes.low_rank import fewest_directions, left_factors
from tests.support.derivatives import normal

EPSILON = torch.finfo(torch.float64).eps


def orthonormal(rows: int, columns: int, *, seed: int) -> Tensor:
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def matrix(singular: Sequence[float], rows: int, columns: int, *, seed: int) -> Tensor:
    """A matrix of these singular values."""
    left = orthonormal(rows, len(singular), seed=seed)
    right = orthonormal(columns, len(singular), seed=seed + 1)
    return left @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ right.T


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Apart by no more than a hundred roundings of the largest number."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 100 * EPSILON * max(float(expected.abs().max()), 1.0)


def best(of: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank."""
    left, values, right = torch.linalg.svd(of, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


# ---- Bases of sketches


def whole_test(columns: int) -> Tensor:
    """Columns that find exactly what is left out, not only in the mean: ``Z Z^T = n I``."""
    return math.sqrt(columns) * torch.eye(columns, dtype=torch.float64)


def test_a_matrix_of_the_rank_that_is_kept_is_found_whole():
    g = matrix((5.0, 2.0), 7, 4, seed=0)

    (basis,), residual = left_factors([g @ torch.cat([normal(4, 2), whole_test(4)], dim=1)], 2)

    assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
    assert_close(basis @ (basis.T @ g), g)
    assert residual <= (100 * EPSILON * 5.0) ** 2


def test_from_the_largest_directions_the_rest_is_what_the_other_singular_values_hold():
    first, second = matrix((5.0, 2.0, 1.0, 0.5), 7, 4, seed=0), matrix((3.0, 0.25), 6, 5, seed=9)
    sketches: list[Tensor] = []
    for g in (first, second):
        right = torch.linalg.svd(g, full_matrices=False).Vh.T
        sketches.append(g @ torch.cat([right[:, :1], whole_test(g.shape[1])], dim=1))

    bases, residual = left_factors(sketches, 1)

    for g, basis in zip((first, second), bases, strict=True):
        assert_close(basis @ (basis.T @ g), best(g, 1))
    assert residual == pytest.approx(4.0 + 1.0 + 0.25 + 0.0625, rel=100 * EPSILON)


def test_without_matrices_nothing_is_left_out():
    assert left_factors([], 4) == ([], 0.0)


def test_a_sketch_that_is_not_finite_has_a_residual_that_is_not():
    sketch = normal(5, 4)
    sketch[2, 1] = math.nan
    _, residual = left_factors([sketch], 2)
    assert math.isnan(residual)


# ---- The fewest directions


SINGULAR = ((4.0, 2.0, 1.0), (3.0, 1.5, 0.5))


@pytest.fixture
def matrices() -> list[Tensor]:
    return [matrix(SINGULAR[0], 7, 5, seed=0), matrix(SINGULAR[1], 6, 8, seed=9)]


@pytest.fixture
def factors(matrices: list[Tensor]) -> list[Factors]:
    """Of all of each matrix, turned so that no column is a singular direction."""
    found: list[Factors] = []
    for g in matrices:
        left = torch.linalg.svd(g, full_matrices=False).U[:, :3] @ orthonormal(3, 3, seed=20)
        found.append(Factors(left, g.T @ left))
    return found


@pytest.mark.parametrize(
    ("squared_norm", "kept"),
    [
        (-1.0, (0, 0)),
        (0.0, (0, 0)),
        (0.1, (1, 0)),
        (15.9, (1, 0)),
        (16.1, (1, 1)),  # 16 + 9
        (24.9, (1, 1)),
        (25.1, (2, 1)),  # + 4
        (29.1, (2, 2)),  # + 2.25
        (31.3, (3, 2)),  # + 1
        (32.3, (3, 3)),  # + 0.25: all
        (100.0, (3, 3)),
    ],
)
def test_the_largest_directions_of_all_matrices_are_kept(
    matrices: list[Tensor], factors: list[Factors], squared_norm: float, kept: tuple[int, int]
):
    found = fewest_directions(factors, squared_norm)

    for g, each, rank in zip(matrices, found, kept, strict=True):
        assert each.left.shape == (g.shape[0], rank)
        assert each.right.shape == (g.shape[1], rank)
        assert_close(each.left @ each.right.T, best(g, rank))
        assert torch.allclose(each.left.T @ each.left, torch.eye(rank, dtype=torch.float64))


def test_no_matrices_have_no_directions():
    assert fewest_directions([], 1.0) == []


@pytest.mark.parametrize("squared_norm", [1.0, math.nan])
def test_numbers_that_are_not_finite_are_passed_on(factors: list[Factors], squared_norm: float):
    factors[1].right[0, 0] = math.inf
    assert fewest_directions(factors, squared_norm) == factors
