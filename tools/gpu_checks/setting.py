"""What a check is run with, as a value that travels to its processes as JSON."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alignment_bench.case import Case
from megadga.config.llama_shapes import PRESETS, LlamaShape

Row = dict[str, Any]
"""One measurement: JSON values by name."""

SMALL = LlamaShape(
    num_layers=1,
    hidden_size=64,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=128,
    tied_embeddings=True,
)
"""Stands for every preset in a quick check."""


@dataclass(frozen=True)
class Setting:
    """One check.

    Attributes:
        device: ``cuda`` or ``cpu``.
        quick: Tiny sizes: shows that every stage runs, and measures nothing of use.
        shards: Folder of ``domains/NAME`` and ``specific/NAME``, shards of real text.
        output: Where files beside the record go.
        scratch: A folder for the time of the check.
    """

    device: Literal["cuda", "cpu"]
    quick: bool
    shards: Path
    output: Path
    scratch: Path

    def to_json(self) -> str:
        """Return the setting as JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        """Return the setting that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {key: Path(values[key]) for key in ("shards", "output", "scratch")})

    def shape(self, preset: str) -> LlamaShape:
        """Return a preset's sizes, or small ones in a quick check."""
        return SMALL if self.quick else PRESETS[preset]

    def case(
        self,
        preset: str,
        *,
        stage: int,
        precision: str,
        sequence_length: int,
        micro_batch: int,
        accumulation: int,
        ranks: int = 1,
    ) -> Case:
        """Return the engine that a stage works on: a preset trained on made-up tokens.

        Args:
            preset: Name of the model.
            stage: ZeRO's, 0-3.
            precision: ``fp32`` or ``bf16``.
            sequence_length: Targets of a sequence (S).
            micro_batch: Sequences of a forward pass on a rank.
            accumulation: Micro-batches of an optimizer step.
            ranks: Processes.
        """
        return Case(
            sections=(),
            ranks=ranks,
            stage=stage,
            precision=precision,
            shape=self.shape(preset),
            model=preset,
            vocabulary_size=256 if self.quick else 32_000,
            sequence_length=16 if self.quick else sequence_length,
            micro_batch=micro_batch,
            accumulation=accumulation,
            rank=4 if self.quick else 16,
            rounds=1 if self.quick else 5,
            num_domains=(),
            total_sequences=0,
        )


@dataclass(frozen=True)
class Deadline:
    """When a stage is cut off.

    Attributes:
        at: By ``time.monotonic``.
    """

    at: float

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.at - time.monotonic())


StageFunction = Callable[[Setting, Deadline], Iterator[Row]]
"""Yields rows as they are measured; runs on every rank."""
