"""Which segments of runs are timed when, and what their seconds say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

PLAIN = "plain"
"""The run that the others are held against."""


@dataclass(frozen=True)
class Segment:
    """One interval of one run.

    Attributes:
        name: Of the run.
        seconds: That it took.
        processor_s: Processor time that it took, of all ranks together.
    """

    name: str
    seconds: float
    processor_s: float


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


def overheads(
    rounds: Sequence[Sequence[Segment]], clock: Callable[[Segment], float]
) -> Mapping[str, Overhead]:
    """Hold each segment against the mean of the plain ones on both sides of it.

    Args:
        rounds: At least one, each in the order of :func:`order_of_round`.
        clock: Returns which of its times counts.
    """
    found: dict[str, list[float]] = {}
    for segments in rounds:
        for before, segment, after in zip(
            segments[:-2:2], segments[1::2], segments[2::2], strict=True
        ):
            assert before.name == after.name == PLAIN  # noqa: S101  (what the order promises)
            plain = (clock(before) + clock(after)) / 2
            found.setdefault(segment.name, []).append(clock(segment) / plain - 1.0)
    return {
        name: Overhead(ratios, median(ratios), min(ratios), max(ratios))
        for name, ratios in found.items()
    }


@dataclass(frozen=True)
class Turn:
    """Some steps of a run that is trained in turns with something and without it.

    Attributes:
        logged: Whether this was a turn with it.
        wall_s: Seconds by the wall clock.
        processor_s: Seconds of processor time.
    """

    logged: bool
    wall_s: float
    processor_s: float


def order_of_pair(number: int) -> tuple[bool, bool]:
    """Return whether the two turns of a pair are with or without: without first in even pairs.

    A machine that becomes slower or faster over two pairs then does so for both.
    """
    return (False, True) if number % 2 == 0 else (True, False)


@dataclass(frozen=True)
class PairedOverhead:
    """Time with, divided by time without, less 1, of the same run in turns.

    Attributes:
        mean: Over pairs.
        standard_error: Of that mean.
    """

    mean: float
    standard_error: float


def paired_overhead(logged: Sequence[float], plain: Sequence[float]) -> PairedOverhead:
    """Compare pairs of turns; a quarter of them at either end counts for as much as its nearest.

    Other load makes single turns much longer; winsorised means are hardly moved by those.

    Args:
        logged: Seconds of each pair's turn with, at least 4 of them.
        plain: Seconds of each pair's turn without.
    """
    ratios = sorted(a / b - 1.0 for a, b in zip(logged, plain, strict=True))
    cut = len(ratios) // 4
    low, high = ratios[cut], ratios[-1 - cut]
    inner = [min(max(ratio, low), high) for ratio in ratios]
    kept = 1.0 - 2.0 * cut / len(ratios)
    return PairedOverhead(fmean(inner), stdev(inner) / (kept * len(ratios) ** 0.5))


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
