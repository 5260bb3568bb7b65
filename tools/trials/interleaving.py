"""Which segments of runs are timed when, and what their seconds say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

PLAIN = "plain"
"""The run that the others are held against."""


@dataclass(frozen=True)
class Segment:
    """One interval of one run.

    Attributes:
        name: Of the run.
        seconds: That it took.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class Overhead:
    """Time with, divided by time without, less 1.

    Attributes:
        rounds: Of each round.
        median: Of those.
        lowest: Of those.
        highest: Of those.
    """

    rounds: Sequence[float]
    median: float
    lowest: float
    highest: float


def order_of_round(names: Sequence[str], number: int) -> list[str]:
    """Return the runs of a round in turn: each between two plain ones, backwards in odd rounds.

    A machine that becomes slower or faster then does so for both.
    """
    turns = list(names) if number % 2 == 0 else list(reversed(names))
    return [PLAIN, *(name for turn in turns for name in (turn, PLAIN))]


def overheads(rounds: Sequence[Sequence[Segment]]) -> Mapping[str, Overhead]:
    """Hold each segment against the mean of the plain ones on both sides of it.

    Args:
        rounds: At least one, each in the order of :func:`order_of_round`.
    """
    found: dict[str, list[float]] = {}
    for segments in rounds:
        for before, segment, after in zip(
            segments[:-2:2], segments[1::2], segments[2::2], strict=True
        ):
            assert before.name == after.name == PLAIN  # noqa: S101  (what the order promises)
            plain = (before.seconds + after.seconds) / 2
            found.setdefault(segment.name, []).append(segment.seconds / plain - 1.0)
    return {
        name: Overhead(ratios, median(ratios), min(ratios), max(ratios))
        for name, ratios in found.items()
    }


def specific_sequences(sequences: float, *, of_domains: int, passes: int) -> int:
    """Return how many specific sequences are left of an update's.

    Args:
        sequences: That an update may read.
        of_domains: Those that it reads of domains.
        passes: How often it reads each specific one.

    Raises:
        ValueError: If none are left.
    """
    left = int((sequences - of_domains) / passes + 1e-9)  # 0.006 * 100 * 128 is not quite 76.8
    if left < 1:
        raise ValueError(
            f"sequences of an update: expected room for {of_domains} of the domains and "
            f"{passes} of the specific set, found {sequences:g}"
        )
    return left
