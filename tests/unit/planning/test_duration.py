"""Seconds of passes, steps and updates, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from megadga.accelerators import ACCELERATORS
from megadga.mixers.probing import Directional, InFlight, LowRank
from megadga.planning import compute
from megadga.planning.compute import Kernels
from megadga.planning.constants import assumed_constants
from megadga.planning.duration import (
    Cluster,
    evaluation_time,
    micro_batches,
    step_time,
    update_time,
)
from megadga.planning.workload import Compiled, Measuring, Zero
from tests.unit.planning.test_memory import BF16, DECODER, P, of_stage

FREE = {
    "matmul_flops": 1e12,
    "attention_flops": 1e11,
    "memory_bandwidth": 1e30,
    "seconds_per_operation": 1e-30,
    "node_bandwidth": 1e30,
    "network_bandwidth": 1e30,
    "collective_latency_s": 1e-30,
    "factorization_s": 1e-30,
    "draw_s": 1e-30,
}
"""Only arithmetic takes time."""
ASSUMED = assumed_constants(ACCELERATORS["h100"])
ARITHMETIC = Cluster(ASSUMED.with_values(FREE, "given"), per_node=8)
BLOCK_MATRICES = 2 * 64 + 2 * 32 + 3 * 128
MATRICES = 2 * BLOCK_MATRICES + 800


def test_an_operation_takes_the_longer_of_arithmetic_and_moving_and_a_start() -> None:
    values = {"matmul_flops": 10.0, "memory_bandwidth": 2.0, "seconds_per_operation": 0.5}
    constants = ASSUMED.with_values(values, "given")

    assert compute.seconds([Kernels("matmul", 100.0, 4.0)], constants) == 10.5
    assert compute.seconds([Kernels("matmul", 10.0, 4.0, count=2)], constants) == 3.0


def test_flops_are_those_of_palm() -> None:
    looked_up = 800
    assert DECODER.flops_per_token(10) == 6 * (P - looked_up) + 12 * 2 * 8 * 10


def test_a_step_multiplies_each_matrix_three_times_a_token() -> None:
    step = step_time(of_stage(0), ARITHMETIC)

    # 30 tokens a micro-batch, two of them; attention over half of ten positions.
    forward = 2 * 30 * (2 * MATRICES / 1e12 + 2 * 2 * 10 * 8 / 1e11)
    assert step.forward == pytest.approx(forward)
    products, attention = 2 * 30 * 2 * MATRICES / 1e12, 2 * 30 * 2 * 2 * 10 * 8 / 1e11
    assert step.backward == pytest.approx(2 * products + 2.5 * attention)
    assert step.total == pytest.approx(step.forward + step.backward)


def test_functions_that_are_compiled_save_rotation_and_swiglu_and_blocks_the_residual_too() -> (
    None
):
    def moved(compiled: Compiled) -> float:
        workload = replace(BF16, decoder=replace(DECODER, compiled=compiled))
        kernels = compute.forward_kernels(workload)
        return sum(each.num_bytes for each in kernels if each.kind == "memory")

    # Of 30 tokens in two blocks: rotation's 32 bytes of 8 + 4 features, 2 reads and writes of 2
    # bytes are left; of SwiGLU's five of 16 hidden features three are.
    saved = 30 * 2 * ((32 - 4) * 12 + (5 - 3) * 2 * 16)
    assert moved("nothing") - moved("functions") == pytest.approx(saved)
    # Two of the residual's six reads and writes of 8 features.
    assert moved("functions") - moved("blocks") == pytest.approx(30 * 2 * 2 * 2 * 8)


def test_checkpointing_passes_the_blocks_once_more() -> None:
    plain = step_time(BF16, ARITHMETIC)
    again = step_time(replace(BF16, checkpointing=True), ARITHMETIC)

    head = 2 * 30 * 2 * 800 / 1e12
    assert again.backward - plain.backward == pytest.approx(plain.forward - head)


def test_adam_moves_28_bytes_a_parameter_beside_gradients_and_weights() -> None:
    values = FREE | {"memory_bandwidth": 1e9, "matmul_flops": 1e30, "attention_flops": 1e30}
    cluster = Cluster(ASSUMED.with_values(values, "given"), 8)

    per_parameter = 28 + 2 * (2 + 4) + 12
    assert step_time(of_stage(1), cluster).optimizer == pytest.approx(P / 4 * per_parameter / 1e9)


def test_what_a_pass_hides_of_communication_slows_it_and_the_rest_is_exposed() -> None:
    workload = replace(
        BF16, zero=Zero(3, persistence_threshold=0, max_live=0, max_reuse_distance=0)
    )
    values = FREE | {"node_bandwidth": 1e11, "overlap_cost": 0.5}
    cluster = Cluster(ASSUMED.with_values(values, "given"), 8)
    overlapped = replace(workload, zero=replace(workload.zero, overlap_comm=True))
    step = step_time(overlapped, cluster)

    gathered = 0.75 * 2 * P / 1e11
    assert step.communication == pytest.approx(2 * 3 * gathered)
    forward, backward = step.forward / 2, step.backward / 2
    exposed = max(0.0, gathered - forward) + max(0.0, 2 * gathered - backward)
    assert step.exposed == pytest.approx(2 * exposed)
    assert step.slowed == pytest.approx(0.5 * (step.communication - step.exposed))
    alone = step_time(workload, cluster)
    assert alone.exposed > step.exposed


def test_sequences_are_divided_so_that_ranks_take_equally_long() -> None:
    assert micro_batches(BF16, 24) == (3, 3)
    assert micro_batches(BF16, 13) == (3, 1)
    assert micro_batches(BF16, 6) == (2,)
    assert micro_batches(BF16, 0) == ()


def update_parts(probe, **more) -> dict[str, float]:
    measuring = Measuring(probe, num_measured=3, specific_sequences=12, interval=1, num_updates=1)
    return dict(update_time(of_stage(0), replace(measuring, **more), ARITHMETIC).parts)


def test_a_specific_gradient_takes_what_as_many_training_sequences_take() -> None:
    step = step_time(of_stage(0), ARITHMETIC)
    parts = update_parts(Directional(sequences_per_domain=4))

    # Twelve sequences are one micro-batch of the two of a step.
    assert parts["specific gradient"] == pytest.approx(step.total / 2)
    # A product with the direction in place of the weights' gradient: the same arithmetic.
    assert parts["domains"] == pytest.approx(step.total / 2)


def test_thin_factors_take_two_passes_every_few_updates() -> None:
    probe = InFlight(direction=LowRank(rank=1), direction_interval=4, refresh_every=None)
    step = step_time(of_stage(0), ARITHMETIC)
    parts = update_parts(probe)

    assert parts["specific gradient"] == pytest.approx(step.total / 2 * 2 / 4)
    assert "domains" not in parts
    once = update_parts(probe, preconditioned=True)
    assert once["specific gradient"] == pytest.approx(step.total / 2 / 4)
    # Rank 1 of m x n: (m + n) / (m n) of a product.
    thin = 2 * (2 * 16 + 2 * 12 + 3 * 24) + 108
    assert parts["in flight"] == pytest.approx(2 * 30 * 2 * thin / 1e12)


def test_what_refreshes_is_paid_by_the_updates_between() -> None:
    parts = update_parts(InFlight(sequences_per_domain=4, refresh_every=5))
    directional = update_parts(Directional(sequences_per_domain=4))

    assert parts["domains"] == pytest.approx(directional["domains"] / 5)


def test_several_targets_cost_as_often() -> None:
    one, three = (update_parts(Directional(), num_targets=n) for n in (1, 3))
    assert three["domains"] == pytest.approx(3 * one["domains"])
    assert three["specific gradient"] == pytest.approx(3 * one["specific gradient"])


def test_an_evaluation_is_forward_passes() -> None:
    step = step_time(of_stage(0), ARITHMETIC)
    assert evaluation_time(of_stage(0), 24, ARITHMETIC) == pytest.approx(step.forward)
