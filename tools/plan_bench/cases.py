"""The engines that predictions are compared with, on the CPU."""

from dataclasses import replace
from typing import Any

from megadga.planning.workload import Stage

from .case import Case

_BUCKET = {"reduce_bucket_size": 1_000_000}
_NOTHING_KEPT: dict[str, Any] = {
    **_BUCKET,
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}
_REPLICATED: tuple[Stage, ...] = (0, 1, 2)
REPLICATED = (
    *(Case("tiny", stage) for stage in _REPLICATED),
    Case("tiny", 0, "bf16"),
    Case("tiny", 1, "bf16", accumulation=1, checkpointing=True),
    Case("tiny", 2, "bf16", zero={**_BUCKET, "overlap_comm": True}),
    Case("tiny", 2, transformers=True),
    Case("8m", 2, "bf16", sequence_length=64),
)
PARTITIONED = (
    Case("tiny", 3, zero=_NOTHING_KEPT),
    Case("tiny", 3, "bf16"),
    Case("tiny", 3, "bf16", zero=_NOTHING_KEPT, checkpointing=True),
)
"""ZeRO-3 patches torch: it has processes of its own."""


def timed(rounds: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return the cases whose steps are timed: both groups of fp32, and the larger preset."""

    def of(cases: tuple[Case, ...]) -> tuple[Case, ...]:
        small = [case for case in cases if case.precision == "fp32"]
        large = [replace(case, preset="8m") for case in small]
        return tuple(replace(case, rounds=rounds) for case in (*small, *large))

    return of(REPLICATED), of(PARTITIONED)
