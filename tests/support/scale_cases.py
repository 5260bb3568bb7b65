"""DeepSpeed's features for large models that alignments are compared with float64 under."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.engines import RELEASED
from tests.support.probe_cases import ProbeCase


@dataclass(frozen=True)
class ScaleCase:
    """A feature, as it is trained on four ranks.

    Attributes:
        case: The engine.
        more: Of DeepSpeed's settings.
    """

    case: ProbeCase
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


QUICK: Mapping[str, ScaleCase] = {
    "parameters on the CPU": ScaleCase(ProbeCase("3-parameters", "fp32", "llama-untied")),
    "ZeRO++ hpZ": ScaleCase(ProbeCase("3-hpz", "fp32", "llama")),
    "fp16, ZeRO-2": ScaleCase(ProbeCase("2", "fp16", "llama-checkpointed")),
}
"""Those that take seconds."""


def thorough_cases(scratch: Path) -> Mapping[str, ScaleCase]:
    """Return further ones, of which some compile an operator for a minute.

    Args:
        scratch: A folder for what is kept on disk.
    """
    return {
        "parameters on the CPU, bf16": ScaleCase(ProbeCase("3-parameters", "bf16", "llama")),
        "ZeRO++ hpZ, bf16": ScaleCase(ProbeCase("3-hpz", "bf16", "llama-untied")),
        "ZeRO++ hpZ, checkpointed": ScaleCase(ProbeCase("3-hpz", "fp32", "llama-checkpointed")),
        "fp16, ZeRO-0": ScaleCase(ProbeCase("0", "fp16", "llama")),
        "fp16, ZeRO-1": ScaleCase(ProbeCase("1", "fp16", "hf-llama")),
        "fp16, ZeRO-3": ScaleCase(ProbeCase("3-released", "fp16", "llama-untied")),
        "fp16, offloaded": ScaleCase(ProbeCase("2-offload", "fp16", "small")),
        "parameters and states on disk": _on_disk("fp32", scratch),
        "parameters and states on disk, bf16": _on_disk("bf16", scratch),
    }


def _on_disk(precision: str, scratch: Path) -> ScaleCase:
    disk = {"device": "nvme", "nvme_path": str(scratch), "buffer_count": 8}
    block = {
        "stage": 3,
        **RELEASED,
        "offload_param": {**disk, "buffer_size": 100_000},
        "offload_optimizer": disk,
    }
    return ScaleCase(ProbeCase("3", precision, "llama"), {"zero_optimization": block})
