"""The ways to measure that tests go through."""

from megadga.mixers.probing import Directional, InFlight, LowRank, Probe, Sharded

METHODS: dict[str, Probe] = {
    "sharded": Sharded(),
    "directional": Directional(),
    "directional-low-rank": Directional(direction=LowRank(rank=2), direction_interval=2),
    "in_flight": InFlight(refresh_every=2),
    "in_flight-low-rank": InFlight(direction=LowRank(rank=2), direction_interval=2),
}
BETWEEN_STEPS = ("sharded", "directional", "directional-low-rank")


def sized(probe: Probe, sequences_per_domain: int, specific_sequences: int) -> Probe:
    """Return the same probe on other numbers of sequences."""
    sizes = {
        "sequences_per_domain": sequences_per_domain,
        "specific_sequences": specific_sequences,
    }
    return probe.model_copy(update=sizes)
