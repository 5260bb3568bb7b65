"""From a probe's section to how alignments are measured. Knows no rule and no engine."""

from typing import Literal

from megadga.alignment.methods import (
    Directional,
    InFlight,
    LowRank,
    Method,
    ProbeBudget,
    Probing,
    Sharded,
)
from megadga.config.probes import (
    DirectionalProbe,
    EnergyDirection,
    InFlightProbe,
    Probe,
    RankDirection,
    ShardedProbe,
)

WithoutMoments = Literal["refuse", "raw"]


def make_probing(probe: Probe, without_moments: WithoutMoments = "refuse") -> Probing:
    """Return how alignments are measured.

    Args:
        probe: Its section.
        without_moments: What a score by AdamW's moments does before there are any.
    """
    budget = ProbeBudget(probe.sequences_per_domain, probe.specific_sequences)
    return Probing(_method(probe), budget, without_moments)


def _method(probe: Probe) -> Method:
    match probe:
        case DirectionalProbe():
            return Directional(_low_rank(probe))
        case InFlightProbe():
            return InFlight(_low_rank(probe), refresh_every=probe.refresh_every)
        case ShardedProbe():
            return Sharded()


def _low_rank(probe: DirectionalProbe | InFlightProbe) -> LowRank | None:
    interval = probe.direction_interval
    match probe.direction:
        case RankDirection(rank=rank):
            return LowRank(rank, interval=interval)
        case EnergyDirection(energy=energy, max_rank=rank):
            return LowRank(rank, energy, interval)
        case "full":
            return None
