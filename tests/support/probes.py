"""The ways to measure that tests go through."""

from megadga.probes.methods import Directional, InFlight, LowRank, Method, Sharded

METHODS: dict[str, Method] = {
    "sharded": Sharded(),
    "directional": Directional(),
    "directional-low-rank": Directional(LowRank(rank=2, interval=2)),
    "in_flight": InFlight(refresh_every=2),
    "in_flight-low-rank": InFlight(LowRank(rank=2, interval=2)),
}
BETWEEN_STEPS = ("sharded", "directional", "directional-low-rank")
