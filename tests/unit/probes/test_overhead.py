import pytest

from megadga.mixers.base import AlignmentNeeds, TargetNeeds
from megadga.mixers.probing import Directional, InFlight, LowRank, Probe, Sharded
from megadga.probes.overhead import Overhead, predicted_overhead, update_cost
from tests.support.probes import sized

NORMS = AlignmentNeeds(norms=True)
PRECONDITIONED = AlignmentNeeds(preconditioned=True)
AMONG_DOMAINS = AlignmentNeeds(norms=True, target="domains")


def overhead(method: Probe, needs: AlignmentNeeds | TargetNeeds = AlignmentNeeds()) -> Overhead:
    """With 20 domains of 8 sequences, 32 specific ones, and batches of 512 for 100 steps."""
    return predicted_overhead(
        sized(method, 8, 32),
        num_domains=20,
        interval=100,
        global_batch_size=512,
        needs=needs,
    )


@pytest.mark.parametrize(
    ("method", "needs", "sequences"),
    [
        (Sharded(), AlignmentNeeds(), 20 * 8 + 32),
        (Sharded(), NORMS, 20 * 8 + 32),  # they come with the gradients
        (Directional(), AlignmentNeeds(), 20 * 8 + 32),
        (Directional(), PRECONDITIONED, 20 * 8 + 32),
        (Directional(), NORMS, 2 * 20 * 8 + 32),
        (Directional(direction=LowRank(rank=16)), AlignmentNeeds(), 20 * 8 + 2 * 32),
        (
            Directional(direction=LowRank(rank=16), direction_interval=4),
            AlignmentNeeds(),
            20 * 8 + 2 * 32 / 4,
        ),
        (Sharded(), AMONG_DOMAINS, 20 * 8 + 20 * 8),
        (Directional(), AMONG_DOMAINS, 2 * 20 * 8 + 20 * 8),
        (
            Directional(direction=LowRank(rank=16), direction_interval=4),
            AMONG_DOMAINS,
            2 * 20 * 8 + 2 * 20 * 8 / 4,
        ),
        (InFlight(refresh_every=10), AlignmentNeeds(), 20 * 8 / 10 + 32),
        (
            InFlight(direction=LowRank(rank=16), direction_interval=4, refresh_every=5),
            AlignmentNeeds(),
            32 + 2 * 32 / 4,
        ),
        (
            InFlight(direction=LowRank(rank=16), direction_interval=4, refresh_every=None),
            PRECONDITIONED,
            32 / 4,  # factored in its shards: one pass
        ),
    ],
)
def test_an_update_reads_the_sequences_that_are_worked_out_here(method, needs, sequences):
    found = overhead(method, needs)
    assert found.sequences_per_update == sequences
    assert found.share == sequences / (100 * 512)


@pytest.mark.parametrize(
    ("method", "share"),
    [
        (Directional(), (20 * 8 + 32) / 512),
        (InFlight(refresh_every=None), 32 / 512 + 0.35),
        (InFlight(direction=LowRank(rank=16), refresh_every=None), 2 * 32 / 512 + 2 * 16 / 140),
        (InFlight(direction=LowRank(rank=1), refresh_every=None), 2 * 32 / 512 + 0.04),
        (InFlight(direction=LowRank(rank=64), refresh_every=None), 2 * 32 / 512 + 0.35),
    ],
)
def test_an_update_costs_its_sequences_and_in_flight_a_part_of_the_step(method, share):
    found = update_cost(
        method,
        num_domains=20,
        global_batch_size=512,
        needs=AlignmentNeeds(),
        matrices=[(100, 100), (100, 300), (300, 100)],  # 2 x 70,000 elements, 1,000 sides
    )
    assert found == pytest.approx(share)


def test_twenty_domains_cost_four_in_a_thousand():
    assert f"{overhead(Directional()).share:.2%}" == "0.38%"


@pytest.mark.parametrize(
    ("method", "needs", "sequences"),
    [
        (Directional(), TargetNeeds(3), 3 * (160 + 32 + 32)),
        (Directional(), TargetNeeds(3, norms=True), 4 * 160 + 3 * (32 + 32)),
        (Sharded(), TargetNeeds(3, norms=True), 3 * (160 + 32 + 32)),
        (
            Directional(direction=LowRank(rank=16), direction_interval=4),
            TargetNeeds(3),
            3 * (160 + 32 * 2 / 4 + 32),
        ),
    ],
)
def test_each_target_costs_what_one_does_and_the_pass_of_its_loss(
    method: Probe, needs: TargetNeeds, sequences: float
) -> None:
    found = overhead(method, needs)
    assert found.sequences_per_update == pytest.approx(sequences)
    assert found.share == pytest.approx(sequences / (100 * 512))
