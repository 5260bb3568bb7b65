"""After which optimizer steps the weights are updated."""

from dataclasses import dataclass
from math import ceil
from typing import final


@final
@dataclass(frozen=True)
class UpdateSteps:
    """The steps after which the weights are updated.

    Attributes:
        interval: Optimizer steps between updates (T_r), at least 1.
        early_interval: As long as ``early_steps`` are not completed, this instead, at least 1.
        early_steps: Where ``early_interval`` ends, at least 0: an update follows it.

    Raises:
        ValueError: If a number is out of range.
    """

    interval: int
    early_interval: int = 1
    early_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in (("interval", 1), ("early_interval", 1), ("early_steps", 0)):
            if (found := getattr(self, name)) < least:
                raise ValueError(f"{name}: expected at least {least} step, found {found}")

    def is_update(self, step: int) -> bool:
        """Tell whether an update follows optimizer step ``step``, from 1."""
        if step <= self.early_steps:
            return step % self.early_interval == 0
        return (step - self.early_steps) % self.interval == 0

    def interval_at(self, step: int) -> int:
        """Return the interval that the update after optimizer step ``step`` ends."""
        return self.early_interval if step <= self.early_steps else self.interval

    def count(self, steps: int) -> int:
        """Return the updates of a run of so many optimizer steps."""
        early = min(steps, self.early_steps)
        return early // self.early_interval + (steps - early) // self.interval


EARLY_SHARE = 0.1
"""Part of a run in which updates are more frequent: what the mixture is then matters most."""
_EARLY_FACTOR = 3.0


def affordable_updates(cost: float, *, overhead: float, total_steps: int) -> UpdateSteps:
    """Return the most frequent updates that cost no more than a share of training.

    In the first tenth of the run three times that share.

    Args:
        cost: Of an update, in optimizer steps, above 0.
        overhead: Share of training that updates may cost, above 0.
        total_steps: Optimizer steps of the run, at least 1.
    """
    interval, early_interval = (
        max(1, ceil(round(cost / share, 9)))  # 15.000000000000002 steps are 15
        for share in (overhead, _EARLY_FACTOR * overhead)
    )
    early_steps = int(EARLY_SHARE * total_steps) // early_interval * early_interval
    return UpdateSteps(interval, early_interval, early_steps)
