"""The stages, in the order of their worth, and how long each may take."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One part of the check.

    Attributes:
        name: Of its function in `worker.FUNCTIONS`.
        shows: What it shows, for people.
        limit_s: Seconds after which it is cut off, at most.
        ranks: Processes that run it together.
        ends_processes: Whether the next stage needs processes of its own, because this one leaves
            torch or DeepSpeed in another state than it found.
    """

    name: str
    shows: str
    limit_s: float
    ranks: int = 1
    ends_processes: bool = False


STAGES = (
    Stage("environment", "versions, device, one DeepSpeed step", 60),
    Stage("exactness", "each probe against float64 on one rank", 90, ends_processes=True),
    Stage("two_ranks", "the same on two ranks", 60, ranks=2, ends_processes=True),
    Stage("no_trace", "training with and without probes, to the bit", 90, ends_processes=True),
    Stage("resuming", "a run stopped and resumed, to the bit", 90, ends_processes=True),
    Stage("constants", "what the device reaches, for `megadga plan`", 45),
    Stage("speed", "tokens per second, utilisation, cost of probes", 300),
    Stage("profiling", "memory and kernels of a step", 45),
    Stage("training", "DGA and uniform weights on real text", 300),
)


def first_group(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages at the front that the same processes can run one after another."""
    group: list[Stage] = []
    for stage in stages:
        if group and stage.ranks != group[0].ranks:
            break
        group.append(stage)
        if stage.ends_processes:
            break
    return tuple(group)
