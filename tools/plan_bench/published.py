"""Published runs of others, and what is predicted of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.accelerators import ACCELERATORS
from megadga.planning.constants import assumed_constants
from megadga.planning.duration import Cluster, step_time
from megadga.planning.workload import Decoder, Workload, Zero

_MPT = {
    "125m": (12, 768),
    "350m": (24, 1024),
    "760m": (24, 1536),
    "1b": (24, 2048),
    "3b": (32, 2560),
    "7b": (32, 4096),
    "13b": (40, 5120),
    "30b": (48, 7168),
    "70b": (80, 8192),
}
"""Layers and widths of MosaicML's models: two matrices in the feed-forward, no rotation."""
_LLAMA = {"llama-8b": (32, 4096, 32, 14_336), "llama-70b": (80, 8192, 64, 28_672)}
"""Layers, widths, heads and feed-forward of Llama 3.1; 8 key heads of 128."""
_HBM2E = 2.4e12
"""Memory bandwidth of the H100s that torchtitan's runs are from, bytes per second."""


@dataclass(frozen=True)
class Published:
    """A run that somebody measured, and its prediction.

    Attributes:
        values: The row of the file.
        predicted: Tokens per second and device.
    """

    values: dict[str, Any]
    predicted: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.values["tokens_per_s"]


def read_published(path: Path) -> Sequence[Published]:
    """Read the file of published runs and predict each, under ZeRO-3 in place of FSDP."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return [Published(row, _predicted(row)) for row in rows]


def _decoder(row: dict[str, Any]) -> Decoder:
    if row["model"] in _LLAMA:
        layers, width, heads, hidden = _LLAMA[row["model"]]
        compiled = "blocks" if row["compiled"] else "nothing"
        return Decoder(layers, width, heads, 1024, hidden, 128_256, False, compiled=compiled)
    layers, width = _MPT[row["model"]]
    return Decoder(
        num_layers=layers,
        hidden_size=width,
        num_heads=width // 128,
        kv_width=width,
        intermediate_size=4 * width,
        vocabulary_size=50_368,
        tied_embeddings=True,
        gated=False,
        rotary=False,
    )


def _predicted(row: dict[str, Any]) -> float:
    name = row["accelerator"]
    accelerator = ACCELERATORS[name.removesuffix("-hbm2e")]
    constants = assumed_constants(accelerator)
    if name.endswith("-hbm2e"):
        share = _HBM2E / accelerator.memory_bandwidth
        own = {"memory_bandwidth": share * constants.memory_bandwidth.value}
        constants = constants.with_values(own, "given")
    workload = Workload(
        _decoder(row),
        Zero(3, overlap_comm=True),
        ranks=row["devices"],
        sequence_length=row["sequence_length"],
        micro_batch=row["micro_batch"],
        accumulation=row["accumulation"],
        checkpointing=row["checkpointing"],
    )
    step = step_time(workload, Cluster(constants, accelerator.devices_per_node))
    return workload.tokens_per_step / step.total / workload.ranks
