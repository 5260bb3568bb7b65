"""Which side trains when, and what the seconds of both say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from .case import SIDES, Case, Row, Side


@dataclass(frozen=True)
class Turn:
    """Some steps in a row of one rank.

    Attributes:
        steps: How many.
        seconds: Until all ranks were done.
        cpu_seconds: That its process was busy for.
    """

    steps: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank: resident ones, or on an accelerator those of torch's allocator.

    Attributes:
        before: Before the engine was built.
        peak: The most up to the end.
    """

    before: int
    peak: int


@dataclass(frozen=True)
class Ratio:
    """Speed of megadga divided by that of transformers.

    Attributes:
        rounds: Of each round.
        median: Of those.
        lower: A quarter of them are below it.
        upper: A quarter of them are above it.
    """

    rounds: Sequence[float]
    median: float
    lower: float
    upper: float


def order_of_round(number: int) -> tuple[Side, ...]:
    """Return the sides of a round in turn, backwards in odd rounds: ABBAABBA...

    A machine that becomes slower or faster then does so for both.
    """
    return SIDES[:: -1 if number % 2 else 1]


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return the ratio of speeds from the seconds for the same work, a pair a round.

    Args:
        ours: Of each round, at least two.
        theirs: Likewise.
    """
    rounds = [b / a for a, b in zip(ours, theirs, strict=True)]
    lower, _, upper = quantiles(rounds, n=4, method="inclusive")
    return Ratio(rounds, median(rounds), lower, upper)


def row_of(
    case: Case,
    turns: Mapping[Side, Sequence[Sequence[Turn]]],
    memory: Mapping[Side, Sequence[Memory]],
) -> Row:
    """Return what was found of a case.

    Args:
        case: What was trained.
        turns: Of each side, of each round, of each rank.
        memory: Of each side, of each rank.
    """
    seconds = {side: [max(t.seconds for t in ranks) for ranks in turns[side]] for side in SIDES}
    busy = {side: [sum(t.cpu_seconds for t in ranks) for ranks in turns[side]] for side in SIDES}
    steps = [ranks[0].steps for ranks in turns["megadga"]]
    row: dict[str, Any] = case.labels() | {"steps": sum(steps)}
    for side in SIDES:
        per_step = median(s / n for s, n in zip(seconds[side], steps, strict=True))
        row[side] = {
            "tokens_per_s": case.tokens_per_step / per_step,
            "seconds": seconds[side],
            "cpu_seconds": busy[side],
            "peak_bytes": max(each.peak for each in memory[side]),
            "added_bytes": max(each.peak - each.before for each in memory[side]),
        }
    ratio, cpu = (ratio_of(found["megadga"], found["transformers"]) for found in (seconds, busy))
    ours, theirs = row["megadga"], row["transformers"]
    return row | {
        "speed": ratio,
        "speed_by_cpu_time": cpu,
        "peak_memory": ours["peak_bytes"] / theirs["peak_bytes"],
        "added_memory": ours["added_bytes"] / theirs["added_bytes"],
    }
