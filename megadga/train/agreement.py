"""Work whose result or failure all ranks share. Knows neither torch nor what is worked on.

A rank that fails alone leaves the others waiting at their next collective until the time-out. So
what one rank does for all, or each does for itself, ends in an exchange of how it went.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from megadga.errors import MegadgaError

T = TypeVar("T")


class Ranks(Protocol):
    """All ranks of a run, as far as they exchange small values."""

    @property
    def rank(self) -> int:
        """This process's place among them, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Their number, at least 1."""
        ...

    def object_of_first_rank(self, value: Any) -> Any:
        """Return the first rank's value; the others' does not matter. Collective."""
        ...

    def objects(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of the ranks. Collective."""
        ...


class OtherRankError(RuntimeError):
    """Another rank has failed, with something that the user's files or options do not explain."""


def on_first_rank(ranks: Ranks, work: Callable[[], T]) -> T:
    """Have the first rank work; return its result on every rank. Collective.

    The first rank's reads decide for all: on a network's file system another machine may see an
    older state for a minute.

    Raises:
        MegadgaError: As the work does, on every rank.
        OtherRankError: On the other ranks, if the work raises anything else.
    """
    mine: tuple[Any, Exception | None] = (None, None)
    if ranks.rank == 0:
        mine = _attempt(work)
    result, failure = ranks.object_of_first_rank((mine[0], _as_told(0, mine[1])))
    _raise(mine[1], failure)
    return result


def on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Have every rank work; return all results, in the order of the ranks. Collective.

    Raises:
        MegadgaError: As the work does on the first rank that it fails on; on every rank.
        OtherRankError: On the other ranks, if the work raises anything else.
    """
    result, error = _attempt(work)
    everyone = ranks.objects((result, _as_told(ranks.rank, error)))
    _raise(error, next((told for _, told in everyone if told is not None), None))
    return [each for each, _ in everyone]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  (raised again, when the other ranks know of it)
        return None, error


def _as_told(rank: int, error: Exception | None) -> Exception | None:
    """Return what the other ranks raise."""
    if error is None or isinstance(error, MegadgaError):
        return error
    return OtherRankError(f"rank {rank} failed: {type(error).__name__}: {error}")


def _raise(mine: Exception | None, told: Exception | None) -> None:
    if mine is not None:
        raise mine
    if told is not None:
        raise told
