"""The ways to measure alignments, as values. Knows neither how they work nor what they need."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LowRank:
    """Keep each matrix of the specific gradient as two thin factors.

    Attributes:
        rank: Columns of each factor, at least 1; a matrix that is no larger is kept whole.
        energy: Keep of those the fewest that hold this share of ``|v|^2``, in ``(0, 1]``; None:
            keep all.
        interval: Updates that a direction is used for, at least 1.
    """

    rank: int = 16
    energy: float | None = None
    interval: int = 1

    def __post_init__(self) -> None:
        for name in ("rank", "interval"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise ValueError(f"energy: expected 0 < energy <= 1, found {self.energy}")


@dataclass(frozen=True)
class Sharded:
    """Every domain's gradient, reduced into shards: the reference, and for any module."""


@dataclass(frozen=True)
class Directional:
    """Derivatives of each sequence's loss along the specific gradient: no gradient is formed.

    Attributes:
        direction: Thin factors of the specific gradient; None: all of it.
    """

    direction: LowRank | None = None


@dataclass(frozen=True)
class InFlight:
    """The same derivatives, taken while the update's own training batch is trained on.

    Attributes:
        direction: Thin factors of the specific gradient; None: all of it.
        refresh_every: Updates between those at which domains that the batch did not draw are
            measured directionally, at least 1; the first update is one.
    """

    direction: LowRank | None = None
    refresh_every: int = 10

    def __post_init__(self) -> None:
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every: expected at least 1, found {self.refresh_every}")


Method = Sharded | Directional | InFlight


@dataclass(frozen=True)
class ProbeBudget:
    """How many sequences an update measures its gradients on.

    Attributes:
        sequences_per_domain: Sequences drawn from each domain, at least 1.
        specific_sequences: Sequences drawn from the specific set, at least 1.
    """

    sequences_per_domain: int = 8
    specific_sequences: int = 32

    def __post_init__(self) -> None:
        for name in ("sequences_per_domain", "specific_sequences"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")


@dataclass(frozen=True)
class Probing:
    """How an update's alignments are measured.

    Attributes:
        method: The way.
        budget: The sequences. In flight, ``sequences_per_domain`` is what a refreshed domain gets.
        without_moments: What becomes of a score that asks for AdamW's second moments before there
            are any: ``refuse`` is an error; ``raw`` measures along the specific gradient itself.
    """

    method: Method = Directional()
    budget: ProbeBudget = ProbeBudget()
    without_moments: Literal["refuse", "raw"] = "refuse"
