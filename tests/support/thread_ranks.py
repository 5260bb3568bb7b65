"""Ranks that are threads of one process: they exchange values, and no process is started."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

DEADLINE_S = 20.0


@dataclass(frozen=True)
class ThreadRank:
    """One of several ranks; ``megadga.train.ranks.Ranks``.

    Attributes:
        rank: Its number.
        world_size: How many there are.
        board: Where each puts its value.
        barrier: Where they wait for each other; breaks if one does not come in time.
    """

    rank: int
    world_size: int
    board: list[Any]
    barrier: Barrier

    def object_of_first_rank(self, value: Any) -> Any:
        return self.objects(value)[0]

    def objects(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(DEADLINE_S)
        values = list(self.board)
        self.barrier.wait(DEADLINE_S)
        return values


def on_ranks(work: Callable[[ThreadRank], Any], world_size: int = 2) -> list[Any]:
    """Return what each rank's work returns or raises."""
    barrier, board = Barrier(world_size), [None] * world_size
    ranks = [ThreadRank(rank, world_size, board, barrier) for rank in range(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(work, rank) for rank in ranks]
        return [future.exception() or future.result() for future in futures]
