"""Distributes the rows of a global batch over ranks and micro-batches."""

from dataclasses import dataclass

import numpy as np

from megadga.arrays import IntArray


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """One micro-batch of one rank, and the weight of its mean in the mean over all rows.

    Attributes:
        rows: Rows of the global batch, shape ``(n,)``, ``1 <= n <= micro_batch_size``.
        share: Their fraction of the total weight; 0 where the rank only takes part in collectives.
    """

    rows: IntArray
    share: float


def rank_rows(num_rows: int, *, rank: int, world_size: int, micro_batch_size: int) -> IntArray:
    """Return the rows of the global batch that one rank trains on.

    Every row belongs to exactly one rank.

    Args:
        num_rows: Sequences of the global batch, a multiple of ``world_size * micro_batch_size``.
        rank: In ``[0, world_size)``.
        world_size: Data-parallel ranks, at least 1.
        micro_batch_size: Sequences per forward pass and rank, at least 1.

    Returns:
        Shape ``(accumulation steps, micro_batch_size)``; entry ``(m, i)`` is row
        ``(m * world_size + rank) * micro_batch_size + i``.

    Raises:
        ValueError: If the rows do not divide evenly or the rank is out of range.
    """
    _check_layout(num_rows, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
    if num_rows % (world_size * micro_batch_size):
        raise ValueError(
            f"num_rows: expected a multiple of world_size * micro_batch_size = "
            f"{world_size} * {micro_batch_size}, found {num_rows}"
        )
    dealt = np.arange(num_rows, dtype=np.int64).reshape(-1, world_size, micro_batch_size)
    return dealt[:, rank]


def weighted_rank_rows(
    weights: IntArray, *, rank: int, world_size: int, micro_batch_size: int
) -> tuple[WeightedRows, ...]:
    """Return one rank's micro-batches of any number of rows, with their weights in the mean.

    Every rank gets the same number of micro-batches, as under ZeRO-3 each forward pass gathers
    parameters from all ranks. All but the last are full; the rows of the last are distributed as
    evenly as possible. A rank without rows in it repeats its first row with share 0. Where
    :func:`rank_rows` is defined, the rows are the same.

    Args:
        weights: Weight of each row in the mean, at least 1 (its number of targets, or 1), shape
            ``(N,)``, ``N >= 1``.
        rank: In ``[0, world_size)``.
        world_size: Ranks, at least 1.
        micro_batch_size: Maximum rows per forward pass and rank, at least 1.

    Returns:
        Micro-batches whose shares sum to 1 over all ranks.

    Raises:
        ValueError: If a number is out of range.
    """
    num_rows = weights.size
    _check_layout(num_rows, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
    if weights.min() < 1:
        raise ValueError(f"weights: expected at least 1 each, found {weights.min()}")
    total = int(weights.sum())
    shares: list[WeightedRows] = []
    for start in range(0, num_rows, world_size * micro_batch_size):
        stop = min(start + world_size * micro_batch_size, num_rows)
        rows = np.array_split(np.arange(start, stop, dtype=np.int64), world_size)[rank]
        if rows.size:
            shares.append(WeightedRows(rows, int(weights[rows].sum()) / total))
        else:
            shares.append(WeightedRows(np.array([start], dtype=np.int64), 0.0))
    return tuple(shares)


def _check_layout(num_rows: int, *, rank: int, world_size: int, micro_batch_size: int) -> None:
    sizes = {"num_rows": num_rows, "world_size": world_size, "micro_batch_size": micro_batch_size}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 <= rank < {world_size}, found {rank}")
