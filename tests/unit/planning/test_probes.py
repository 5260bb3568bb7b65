"""What probes take beside training, against what docs/alignment.md has measured.

Two ranks, float32, 4 layers of width 512, vocabulary 8,192, micro-batches of 4, two of them a
step; the specific set has as many sequences as a step, the two domains as many together.
"""

import pytest

from megadga.mixers.probing import Directional, InFlight, LowRank, Probe, Sharded
from megadga.planning.communication import update_traffic
from megadga.planning.memory import predict_memory
from megadga.planning.workload import Decoder, Measuring, Stage, Workload, Zero

DECODER = Decoder(
    num_layers=4,
    hidden_size=512,
    num_heads=8,
    kv_width=512,
    intermediate_size=1408,
    vocabulary_size=8192,
    tied_embeddings=True,
)
P_BYTES = 4 * DECODER.num_parameters
RANK_16 = LowRank(rank=16)
BUCKET = 1 << 22


def workload(stage: Stage) -> Workload:
    return Workload(
        DECODER,
        Zero(stage, reduce_bucket=BUCKET, persistence_threshold=100_000, fused_optimizer=False),
        ranks=2,
        sequence_length=64,
        micro_batch=4,
        accumulation=2,
        element_bytes=4,
        on_cpu=True,
    )


def measuring(probe: Probe) -> Measuring:
    return Measuring(probe, num_measured=2, specific_sequences=16, interval=1, num_updates=1)


@pytest.mark.parametrize(
    ("stage", "probe", "measured"),
    [
        (2, InFlight(specific_sequences=16), 1.00),
        (3, InFlight(specific_sequences=16), 0.75),
        (2, InFlight(specific_sequences=16, direction=RANK_16), 0.063),
    ],
    ids=["whole", "whole, ZeRO-3", "rank 16"],
)
def test_memory_of_an_update_in_flight_is_what_was_measured(
    stage: Stage, probe: Probe, measured: float
) -> None:
    plain = predict_memory(workload(stage)).peak
    found = predict_memory(workload(stage), measuring(probe))

    more = (found.moments["update"] - plain) / P_BYTES
    assert more == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("probe", "measured"),
    [
        (Sharded(specific_sequences=16), 4.0),
        (Directional(specific_sequences=16), 3.0),
        (InFlight(specific_sequences=16), 3.0),
    ],
    ids=["sharded", "directional", "in flight"],
)
def test_bytes_of_an_update_are_what_was_measured(probe: Probe, measured: float) -> None:
    sent = sum(each.payload for each in update_traffic(workload(2), measuring(probe)))

    assert sent / P_BYTES == pytest.approx(measured, rel=0.15)
