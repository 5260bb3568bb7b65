"""Matrices as thin factors: bases of what was sketched, and how few directions will do.

Knows neither what the matrices are nor how they are summed over ranks.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from megadga.alignment.directions import Factors


def left_factors(sketches: Sequence[Tensor], rank: int) -> tuple[list[Tensor], float]:
    """Return orthonormal bases of what matrices were sketched to, and what they leave out.

    With a basis ``P`` of ``G Q``, ``|(I - P P^T) G|^2`` is the expectation of
    ``|(I - P P^T) G z|^2`` for normal ``z``: the mean over the columns of ``Z`` estimates it.

    Args:
        sketches: ``[G Q, G Z]`` of each matrix, shape ``(rows, rank + columns of Z)``.
        rank: Columns of ``G Q``, at most ``rows``.

    Returns:
        ``P`` of each, shape ``(rows, rank)``; and the sum of the estimates.
    """
    bases: list[Tensor] = []
    residual = 0.0
    for sketch in sketches:
        basis, _ = _qr(sketch[:, :rank])
        tests = sketch[:, rank:]
        outside = tests - basis @ (basis.T @ tests)
        residual += float(outside.square().sum(dtype=torch.float64)) / tests.shape[1]
        bases.append(basis)
    return bases, residual


def fewest_directions(factors: Sequence[Factors], squared_norm: float) -> list[Factors]:
    """Keep the fewest singular directions, of all matrices, that hold a squared norm together.

    Args:
        factors: Their left ones have orthonormal columns.
        squared_norm: What the products are to hold; all directions are kept if they hold less,
            and none if it is not positive.

    Returns:
        Factors of each matrix's largest directions, orthonormal on the left again; of no columns
        where none is among those kept. As given if a number is not finite: they have none.
    """
    finite = all(bool(each.right.isfinite().all()) for each in factors)
    if not factors or not finite:
        return list(factors)
    decompositions = [_svd(each.right) for each in factors]
    squares = torch.cat([values.double().square() for _, values, _ in decompositions])
    descending = squares.sort(descending=True).values
    least = torch.inf
    if squared_norm > 0.0:
        num_others = int((descending.cumsum(0) < squared_norm).sum())
        least = float(descending[min(num_others, descending.numel() - 1)])
    kept: list[Factors] = []
    for each, (left, values, right) in zip(factors, decompositions, strict=True):
        number = int((values.double().square() >= least).sum())
        rotated = each.left @ right.T[:, :number]
        kept.append(Factors(rotated, left[:, :number] * values[:number]))
    return kept


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U``, the singular values in descending order, and ``V^T``, all of them thin."""
    decompose = cast("Callable[..., tuple[Tensor, Tensor, Tensor]]", torch.linalg.svd)
    return decompose(matrix, full_matrices=False)


_qr = cast("Callable[[Tensor], tuple[Tensor, Tensor]]", torch.linalg.qr)
