"""Bytes of collectives and their seconds, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from megadga.accelerators import ACCELERATORS
from megadga.mixers.probing import Directional, InFlight, LowRank, Sharded
from megadga.planning.communication import (
    Collective,
    num_micro_batches,
    seconds,
    step_traffic,
    update_traffic,
)
from megadga.planning.constants import assumed_constants
from megadga.planning.memory import factor_elements
from megadga.planning.workload import Measuring, Stage, Zero
from tests.unit.planning.test_memory import BF16, BLOCK, P, of_stage

CONSTANTS = assumed_constants(ACCELERATORS["h100"]).with_values(
    {"node_bandwidth": 100e9, "network_bandwidth": 10e9, "collective_latency_s": 1e-6}, "given"
)


def payloads(collectives) -> dict[str, float]:
    return {each.operation: each.payload for each in collectives}


def test_a_single_rank_sends_nothing() -> None:
    alone = step_traffic(replace(BF16, ranks=1))
    assert (alone.forward, alone.backward, alone.once) == ((), (), ())


@pytest.mark.parametrize(
    ("stage", "backward", "once"),
    [
        (0, {}, {"all-reduce": 2 * P}),
        (1, {}, {"all-reduce": 2 * P, "all-gather": 2 * P}),
        (2, {"all-reduce": 2 * P}, {"all-gather": 2 * P}),
    ],
)
def test_zero_2_reduces_every_micro_batch_and_the_others_once(stage, backward, once) -> None:
    traffic = step_traffic(of_stage(stage))

    assert traffic.forward == ()
    assert payloads(traffic.backward) == backward
    assert payloads(traffic.once) == once


def test_zero_3_gathers_in_every_pass_and_the_tied_matrix_where_it_is_used() -> None:
    zero = Zero(3, persistence_threshold=0, max_live=0, max_reuse_distance=0)
    tied = replace(BF16, zero=zero, decoder=replace(BF16.decoder, tied_embeddings=True))
    traffic = step_traffic(tied)

    used = 2 * BLOCK + 2 * 800 + 8
    assert payloads(traffic.forward) == {"all-gather": 2 * used}
    assert payloads(traffic.backward) == {
        "all-gather": 2 * used,
        "reduce-scatter": 2 * (P - 800),
    }
    again = step_traffic(replace(tied, checkpointing=True))
    assert payloads(again.backward)["all-gather"] == 2 * (used + 2 * (BLOCK - 16 * 8))


def test_zero_3_keeps_what_is_used_again_soon() -> None:
    zero = Zero(3, persistence_threshold=0, max_live=10**9, max_reuse_distance=2000)
    traffic = step_traffic(replace(BF16, zero=zero))

    assert payloads(traffic.backward)["all-gather"] == 2 * (P - 1000)


def test_a_ring_sends_a_reduced_tensor_twice() -> None:
    assert Collective("all-reduce", "", 100.0).sent(4) == 150.0
    assert Collective("all-gather", "", 100.0).sent(4) == 75.0


def test_within_a_node_links_between_devices_count() -> None:
    gather = Collective("all-gather", "", 8e9, calls=3)

    assert seconds(gather, CONSTANTS, ranks=8, per_node=8) == pytest.approx(0.07 + 3e-6)
    assert seconds(gather, CONSTANTS, ranks=1, per_node=8) == 0.0


def test_between_nodes_the_network_counts_where_it_is_slower() -> None:
    gather = Collective("all-gather", "", 8e9)

    # Four nodes of eight: three quarters of the payload over eight links of 10 GB/s.
    assert seconds(gather, CONSTANTS, ranks=32, per_node=8) == pytest.approx(
        max(31 / 32 * 0.08, 0.75 * 8e9 / 80e9) + 1e-6
    )
    slow = CONSTANTS.with_values({"network_bandwidth": 1e9}, "given")
    assert seconds(gather, slow, ranks=32, per_node=8) == pytest.approx(0.75 + 1e-6)


def test_every_rank_passes_a_micro_batch_however_few_the_sequences() -> None:
    assert [num_micro_batches(BF16, number) for number in (1, 12, 13)] == [1, 1, 2]


def sent_for(probe, *, preconditioned: bool = False, stage: Stage = 1) -> dict[str, float]:
    measuring = Measuring(probe, 5, 13, interval=1, num_updates=1, preconditioned=preconditioned)
    traffic = update_traffic(of_stage(stage), measuring)
    return {each.what: each.payload for each in traffic}


def test_a_sharded_probe_reduces_a_gradient_a_domain() -> None:
    # 13 sequences are two micro-batches of 12; 8 of each domain are one.
    assert sent_for(Sharded()) == {
        "specific gradient": 2 * 4 * P,
        "domains' gradients": 5 * 4 * P,
    }


def test_a_whole_direction_is_reduced_and_gathered_once_below_zero_3() -> None:
    assert sent_for(Directional()) == {"specific gradient": 8 * P, "direction": 2 * P}
    assert sent_for(Directional(), stage=3) == {"specific gradient": 8 * P}


def test_thin_factors_are_all_that_is_summed_unless_preconditioned() -> None:
    probe = InFlight(direction=LowRank(rank=2))
    left, right = factor_elements(BF16, 2)
    sketches, _ = factor_elements(BF16, 2, extra=4)

    traffic = update_traffic(of_stage(1), Measuring(probe, 5, 13, interval=1, num_updates=1))
    assert payloads(traffic) == {
        "all-reduce": 4.0 * (sketches + right),
        "broadcast": 4.0 * (sketches + right + left + right),
    }
    assert sent_for(probe, preconditioned=True)["specific gradient"] == 8 * P
    # Four more columns for each row: of two blocks, and of both tables.
    rows = 2 * (8 + 4 + 4 + 8 + 16 + 16 + 8) + 2 * 100
    assert sketches - left == 4 * rows
