"""Training steps that the GPU kit has timed, and their predictions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.accelerators import ACCELERATORS
from megadga.config.llama_shapes import PRESETS
from megadga.planning.constants import assumed_constants
from megadga.planning.duration import Cluster, step_time
from megadga.planning.workload import Arithmetic, Decoder, Workload, Zero

_VARIANTS: Mapping[str, Arithmetic] = {
    "plain training": "megadga",
    "plain training again": "megadga",
    "hugging face": "transformers",
}
"""Whose arithmetic the kit's variants have."""
_VOCABULARY_SIZE = 32_000  # of every model that the kit times
_FIRST_MICRO_BATCH = 8  # of records that do not name it


@dataclass(frozen=True)
class MeasuredStep:
    """A step on one device, and its prediction.

    Attributes:
        record: Name of the kit's record.
        accelerator: Key of ``ACCELERATORS``.
        row: The record's.
        predicted_s: Seconds of the step.
    """

    record: str
    accelerator: str
    row: dict[str, Any]
    predicted_s: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_s / self.row["step_s"]


def read_measured_steps(folder: Path) -> Sequence[MeasuredStep]:
    """Read every record of the kit and predict its steps without updates."""
    return [step for path in sorted(folder.glob("*.json")) for step in _steps(path)]


def _steps(path: Path) -> Iterator[MeasuredStep]:
    stages: dict[str, Any] = json.loads(path.read_text())["stages"]
    rows: list[dict[str, Any]] = [row for stage in stages.values() for row in stage["rows"]]
    devices = [row["name"] for row in rows if row["check"] == "device"]
    names = [name for name in ACCELERATORS if name.upper() in " ".join(devices).split()]
    timed = [row for row in rows if row["check"] == "speed" and "error" not in row]
    for name in names[:1]:  # none where the kit ran on another device
        for row in timed:
            if row["variant"] in _VARIANTS:
                yield MeasuredStep(path.stem, name, row, _predicted_s(name, row))


def _predicted_s(accelerator: str, row: dict[str, Any]) -> float:
    decoder = Decoder.of_llama(
        PRESETS[row["model"]],
        vocabulary_size=_VOCABULARY_SIZE,
        arithmetic=_VARIANTS[row["variant"]],
        compiled="blocks" if row["compiled"] else "nothing",
    )
    micro_batch = row.get("micro_batch", _FIRST_MICRO_BATCH)
    sequences = round(row["tokens_per_s"] * row["step_s"] / row["sequence_length"])
    workload = Workload(
        decoder,
        Zero(2),
        ranks=1,
        sequence_length=row["sequence_length"],
        micro_batch=micro_batch,
        accumulation=sequences // micro_batch,
    )
    return step_time(workload, Cluster(assumed_constants(ACCELERATORS[accelerator]), 1)).total
