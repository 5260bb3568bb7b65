"""Predicted cost of measuring alignments, in sequences and in optimizer steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from megadga.mixers.base import AlignmentNeeds, TargetNeeds
from megadga.mixers.probing import Directional, InFlight, Probe, Sharded

_FULL_STEP_SHARE = 0.35
"""What measuring a batch while it is trained takes of a step, along a whole direction; see
docs/alignment.md."""
_LOW_RANK_STEP_SHARE = 2.0
"""The same at low rank, times the rank over the matrices' mean width. Of a matrix ``m x n``,
products with factors ``r`` wide take ``r (m + n)`` operations a token where training takes
``3 m n``; narrow ones are slower, and about three times that was measured (docs/evidence.md)."""
_LEAST_STEP_SHARE = 0.04
"""The same at low rank, however wide: inputs and output gradients of the matrices are read once
more (docs/scale.md)."""


@dataclass(frozen=True)
class PassCounts:
    """How often a probe passes the same sequences through the model, forward and backward.

    Attributes:
        times: Passes over them, one after the other.
        every: Updates that those do for.
    """

    times: int = 1
    every: int = 1

    @property
    def per_update(self) -> float:
        """Passes per update."""
        return self.times / self.every


@dataclass(frozen=True)
class Overhead:
    """Cost of measuring in sequences; an upper bound for ``InFlight``.

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
    """Return the number of measured mixtures: K domains, or n rows of a basis."""
    return num_domains if needs.mixtures is None else len(needs.mixtures.names)


def num_compared(needs: AlignmentNeeds | TargetNeeds, probe: Probe, num_domains: int) -> int:
    """Return the number of sequences of the target's gradient: b_spe, or K b."""
    if isinstance(needs, TargetNeeds) or needs.target == "specific":
        return probe.specific_sequences
    return num_domains * probe.sequences_per_domain


def predicted_overhead(
    probe: Probe,
    *,
    num_domains: int,
    interval: int,
    global_batch_size: int,
    needs: AlignmentNeeds | TargetNeeds,
) -> Overhead:
    """Return the predicted cost of alignments.

    A share counts sequences as if each took what a training sequence takes. Those that are only
    differentiated along a direction take less: no gradient of the parameters is formed of them.

    Args:
        probe: How they are measured.
        num_domains: ``K``, or the mixtures of them that are measured (`num_measured`).
        interval: Optimizer steps between updates, ``T_r``.
        global_batch_size: Sequences of an optimizer step, ``B``.
        needs: What they are measured for. Norms make a directional probe form every domain's
            gradient as well; in flight there are none to be had. Of several targets each is
            measured by itself, and its loss too.
    """
    num_targets = needs.num_targets if isinstance(needs, TargetNeeds) else 1
    domains, specific = _reads(probe, num_targets, needs)
    losses = PassCounts(num_targets if isinstance(needs, TargetNeeds) else 0)
    sequences = num_domains * probe.sequences_per_domain * domains.per_update + num_compared(
        needs, probe, num_domains
    ) * (specific.per_update + losses.per_update)
    share = sequences / (interval * global_batch_size)
    return Overhead(domains, specific, losses, sequences, share)


def update_cost(
    probe: Probe,
    *,
    num_domains: int,
    global_batch_size: int,
    needs: AlignmentNeeds | TargetNeeds,
    matrices: Sequence[tuple[int, int]],
) -> float:
    """Return what an update costs, in optimizer steps: sequences, and what is measured in flight.

    Args:
        probe: As of `predicted_overhead`, like the others.
        num_domains: ``K``, or the mixtures that are measured.
        global_batch_size: ``B``.
        needs: What is measured.
        matrices: Shapes of those that are trained.
    """
    share = predicted_overhead(
        probe,
        num_domains=num_domains,
        interval=1,
        global_batch_size=global_batch_size,
        needs=needs,
    ).share
    if not isinstance(probe, InFlight):
        return share
    if probe.direction == "full" or not matrices:
        return share + _FULL_STEP_SHARE
    low_rank = _LOW_RANK_STEP_SHARE * probe.direction.most / _mean_width(matrices)
    return share + min(max(low_rank, _LEAST_STEP_SHARE), _FULL_STEP_SHARE)


def _mean_width(matrices: Sequence[tuple[int, int]]) -> float:
    """Return twice the elements per row and column of matrices: of a square one, its width."""
    return 2.0 * sum(m * n for m, n in matrices) / sum(m + n for m, n in matrices)


def _reads(
    probe: Probe, num_targets: int, needs: AlignmentNeeds | TargetNeeds
) -> tuple[PassCounts, PassCounts]:
    """Return the passes over the domains' sequences and over the targets'."""
    match probe:
        case Sharded():
            return PassCounts(num_targets), PassCounts(num_targets)
        case Directional():
            return PassCounts(num_targets + needs.norms), _of_direction(probe, num_targets, needs)
        case InFlight():
            of_direction = _of_direction(probe, num_targets, needs)
            if probe.refresh_every is None:
                return PassCounts(times=0), of_direction
            return PassCounts(every=probe.refresh_every), of_direction


def _of_direction(
    probe: Directional | InFlight, num_targets: int, needs: AlignmentNeeds | TargetNeeds
) -> PassCounts:
    if probe.direction == "full":
        return PassCounts(num_targets)
    # The half-steps of a subspace iteration; what is preconditioned is factored in its shards.
    times = num_targets if needs.preconditioned else 2 * num_targets
    return PassCounts(times, every=probe.direction_interval)
