"""Options of a measurement as values, and the overhead that they predict."""

from dataclasses import dataclass
from typing import Literal

from megadga.mixers.base import AlignmentNeeds, TargetNeeds


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


@dataclass(frozen=True)
class PassCounts:
    """How often a probe sends the same sequences through the model, forward and backward.

    Attributes:
        times: Passes over them, one after the other.
        every: Updates that those do for.
    """

    times: int = 1
    every: int = 1

    @property
    def per_update(self) -> float:
        """Passes over them, divided among the updates."""
        return self.times / self.every


@dataclass(frozen=True)
class Overhead:
    """What measuring costs, in sequences; a bound from above for ``InFlight``.

    Attributes:
        domains: Passes over the ``K b`` sequences of the domains.
        specific: Passes over the target's sequences (`num_compared`), of several targets each.
        losses: Passes over them that go forward alone, counted whole.
        sequences_per_update: Sequences that an update reads in the mean.
        share: Those, divided by what training reads from one update to the next.
    """

    domains: PassCounts
    specific: PassCounts
    losses: PassCounts
    sequences_per_update: float
    share: float


def num_measured(needs: AlignmentNeeds | TargetNeeds, num_domains: int) -> int:
    """Return how many gradients or sets of derivatives an update is of: K, or n of a basis."""
    return num_domains if needs.mixtures is None else len(needs.mixtures.names)


def num_compared(
    needs: AlignmentNeeds | TargetNeeds, budget: ProbeBudget, num_domains: int
) -> int:
    """Return the sequences of the gradient that the domains' are compared with: b_spe or K b."""
    if isinstance(needs, TargetNeeds) or needs.target == "specific":
        return budget.specific_sequences
    return num_domains * budget.sequences_per_domain


def predicted_overhead(
    probing: Probing,
    *,
    num_domains: int,
    interval: int,
    global_batch_size: int,
    needs: AlignmentNeeds | TargetNeeds,
) -> Overhead:
    """Return what alignments will cost beside training.

    A share counts sequences as if each took what a training sequence takes. Those that are only
    differentiated along a direction take less: no gradient of the parameters is formed of them.

    Args:
        probing: How they are measured.
        num_domains: ``K``, or the mixtures of them that are measured (`num_measured`).
        interval: Optimizer steps between updates, ``T_r``.
        global_batch_size: Sequences of an optimizer step, ``B``.
        needs: What they are measured for. Norms make a directional probe form every domain's
            gradient as well; in flight there are none to be had. Of several targets each is
            measured by itself, and its loss too.
    """
    num_targets = needs.num_targets if isinstance(needs, TargetNeeds) else 1
    domains, specific = _reads(probing.method, num_targets, norms=needs.norms)
    losses = PassCounts(num_targets if isinstance(needs, TargetNeeds) else 0)
    budget = probing.budget
    sequences = num_domains * budget.sequences_per_domain * domains.per_update + num_compared(
        needs, budget, num_domains
    ) * (specific.per_update + losses.per_update)
    share = sequences / (interval * global_batch_size)
    return Overhead(domains, specific, losses, sequences, share)


def _reads(method: Method, num_targets: int, *, norms: bool) -> tuple[PassCounts, PassCounts]:
    """Return the passes over the domains' sequences and over the targets'."""
    match method:
        case Sharded():
            return PassCounts(num_targets), PassCounts(num_targets)
        case Directional(direction):
            return PassCounts(num_targets + norms), _of_direction(direction, num_targets)
        case InFlight(direction, refresh_every):
            return PassCounts(every=refresh_every), _of_direction(direction, num_targets)


def _of_direction(low_rank: LowRank | None, num_targets: int) -> PassCounts:
    if low_rank is None:
        return PassCounts(num_targets)
    # The half-steps of a subspace iteration.
    return PassCounts(times=2 * num_targets, every=low_rank.interval)
