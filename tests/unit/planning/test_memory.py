"""Formulas of memory, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from megadga.mixers.probing import Directional, InFlight, LowRank, Sharded
from megadga.planning.memory import (
    block_activations,
    factor_elements,
    kept_activations,
    persistent_parameters,
    predict_memory,
)
from megadga.planning.workload import Decoder, Measuring, Stage, Workload, Zero

DECODER = Decoder(
    num_layers=2,
    hidden_size=8,
    num_heads=2,
    kv_width=4,
    intermediate_size=16,
    vocabulary_size=100,
    tied_embeddings=False,
)
# A block: 8 x 8 twice, 8 x 4 twice, 8 x 16 three times, two norms of 8; two tables of 100 x 8.
BLOCK = 2 * 64 + 2 * 32 + 3 * 128 + 2 * 8
P = 2 * BLOCK + 2 * 800 + 8
BF16 = Workload(
    DECODER,
    Zero(0, reduce_bucket=1000),
    ranks=4,
    sequence_length=10,
    micro_batch=3,
    accumulation=2,
)


def of_stage(stage: Stage, workload: Workload = BF16) -> Workload:
    return replace(workload, zero=replace(workload.zero, stage=stage))


def test_parameters_are_counted_by_hand() -> None:
    assert DECODER.block_parameters == BLOCK == 592
    assert DECODER.num_parameters == P == 2792
    assert replace(DECODER, tied_embeddings=True).num_parameters == P - 800


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, {"weights": 2 * P, "masters": 4 * P, "optimizer": 8 * P}),
        (1, {"weights": 2 * P, "masters": P, "optimizer": 2 * P}),
        (2, {"weights": 2 * P, "masters": P, "optimizer": 2 * P}),
    ],
)
def test_bf16_keeps_float32_copies_that_zero_divides(
    stage: Stage, expected: dict[str, int]
) -> None:
    assert predict_memory(of_stage(stage)).resident == expected


def test_zero_3_divides_everything_and_keeps_a_bucket_and_what_is_small() -> None:
    workload = replace(BF16, zero=Zero(3, reduce_bucket=1000, persistence_threshold=32))

    # 40 numbers of norms, and two matrices of 8 x 4 in each of two blocks.
    assert persistent_parameters(workload) == 5 * 8 + 4 * 32
    assert predict_memory(workload).resident == {
        "weights": P // 2,
        "masters": P,
        "optimizer": 2 * P,
        "gradients": P // 2,
        "buckets": 2000,
        "gathered": 2 * (40 + 128),
    }


def test_fp32_without_zero_has_no_copies() -> None:
    resident = predict_memory(replace(BF16, element_bytes=4)).resident

    assert resident == {"weights": 4 * P, "masters": 0, "optimizer": 8 * P}


def test_a_block_keeps_what_its_backward_pass_reads() -> None:
    # Queries 8, keys and values 4 each, output 8, and three times 16 of the feed-forward, in bf16;
    # of each norm input and output, and a float32; a float32 for each of 2 heads.
    per_token = 2 * (8 + 4 + 4 + 8 + 3 * 16) + 2 * (2 * 2 * 8 + 4) + 2 * 4

    assert block_activations(BF16) == 30 * per_token
    assert kept_activations(BF16) == 2 * 30 * per_token + 30 * 32


def test_checkpointing_keeps_the_stream_of_each_block() -> None:
    assert kept_activations(replace(BF16, checkpointing=True)) == 30 * (2 * 2 * 8 + 32)


def test_transformers_keeps_activations_and_norms_inputs_in_float32_as_well() -> None:
    theirs = replace(BF16, decoder=replace(DECODER, arithmetic="transformers"))

    assert block_activations(theirs) - block_activations(BF16) == 30 * (2 * 16 + 2 * 4 * 8)


@pytest.mark.parametrize(("element", "forward", "loss"), [(2, 0, 2), (4, 4, 0)])
def test_transformers_loss_keeps_the_scores_beside_what_it_computes(element, forward, loss):
    ours = replace(BF16, element_bytes=element)
    theirs = replace(ours, decoder=replace(DECODER, arithmetic="transformers"))
    kept = kept_activations(theirs) - kept_activations(ours)
    one, other = (predict_memory(each).moments for each in (ours, theirs))
    scores, block = 30 * 100, 2 * 4 * 30 * 100

    # Ours has its blocks beside the scores in any precision.
    blocks = block if element == 4 else 0
    more = other["forward pass"] - one["forward pass"] - kept
    assert more == forward * scores - blocks
    assert other["loss"] - one["loss"] - kept == loss * scores


def test_every_moment_has_what_is_resident_beside_it() -> None:
    memory = predict_memory(of_stage(2))
    resident, kept = sum(memory.resident.values()), kept_activations(BF16)
    scores = 30 * 100
    earlier = 2 * P // 4

    assert memory.moments["forward pass"] == resident + earlier + kept + 2 * scores + 8 * scores
    assert memory.moments["loss"] == resident + earlier + kept + 2 * scores + 12 * scores
    # One bucket in bf16; gradients of the stream and of the feed-forward's widest tensors.
    inside = 2 * 30 * (8 + 3 * 16)
    stream = 2 * 30 * 8
    assert memory.moments["backward pass"] == resident + earlier + 2000 + kept + stream + inside
    assert memory.moments["step"] == resident + P  # float32 gradients of a quarter
    assert memory.peak == max(memory.moments.values())
    assert memory.moments[memory.limiting] == memory.peak


def test_overlapped_reduction_takes_a_second_bucket() -> None:
    workload = of_stage(2)
    twice = replace(workload, zero=replace(workload.zero, overlap_comm=True))

    one, two = (predict_memory(each).moments["backward pass"] for each in (workload, twice))
    assert two - one == 2000


def test_one_reduction_without_zero_copies_the_gradients() -> None:
    moments = predict_memory(BF16).moments

    assert moments["reduction"] == 14 * P + 2 * P + 2 * 1000
    assert moments["step"] == 14 * P + 2 * P + 4 * P


def test_factors_replace_the_matrices_that_they_are_smaller_than() -> None:
    left, right = factor_elements(BF16, 2)

    # Of rank 2 all are smaller: 2 (8 + 4) < 32. What is left are the norms.
    outputs = 2 * (8 + 4 + 4 + 8 + 16 + 16 + 8) + 100 + 8
    inputs = 2 * (6 * 8 + 16) + 8 + 100
    assert left + right == 2 * (outputs + inputs) + 40
    # Of rank 4: 4 (8 + 4) > 32 and 4 (8 + 8) = 64 stay whole; 4 (8 + 16) < 128.
    left, right = factor_elements(BF16, 4)
    assert left + right == 4 * (2 * 3 * 24 + 2 * 108) + 40 + 2 * (2 * 32 + 2 * 64)


def measuring(probe) -> Measuring:
    return Measuring(probe, num_measured=4, specific_sequences=8, interval=10, num_updates=5)


def update_bytes(workload: Workload, probe) -> int:
    memory = predict_memory(workload, measuring(probe))
    return memory.moments["update"] - sum(memory.resident.values())


def test_a_whole_direction_is_a_copy_of_the_weights_unless_zero_3_divides_it() -> None:
    workload, plain = of_stage(1), max(predict_memory(of_stage(1)).moments.values())
    resident = sum(predict_memory(workload).resident.values())

    assert update_bytes(workload, InFlight()) == 2 * P + plain - resident
    assert update_bytes(workload, Directional()) < 2 * P + plain - resident
    divided = replace(of_stage(3), ranks=4)
    peak = predict_memory(divided)
    most = peak.peak - sum(peak.resident.values())
    assert update_bytes(divided, InFlight()) == 2 * P // 4 + 2 * 800 + most


def test_thin_factors_stay_between_updates_that_use_them_again() -> None:
    fresh = measuring(InFlight(direction=LowRank(rank=2)))
    used_again = measuring(InFlight(direction=LowRank(rank=2), direction_interval=3))
    left, right = factor_elements(BF16, 2)

    assert predict_memory(BF16, fresh).resident["directions"] == 4 * right
    assert predict_memory(BF16, used_again).resident["directions"] == 4 * (left + 2 * right)
    assert "directions" not in predict_memory(BF16, measuring(Sharded())).resident
