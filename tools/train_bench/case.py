"""What is trained by both sides of a comparison."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megadga.config.llama_shapes import PRESETS

Row = dict[str, Any]
Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
Side = Literal["megadga", "transformers"]
SIDES: tuple[Side, ...] = ("megadga", "transformers")


@dataclass(frozen=True)
class Workload:
    """A model, and how it is trained.

    Attributes:
        preset: Name of the model's shape.
        sequence_length: Targets of a sequence (S).
        precision: ``fp32`` or ``bf16``.
    """

    preset: str
    sequence_length: int
    precision: Precision

    def __str__(self) -> str:
        """Return the workload as :func:`parse_workload` takes it."""
        return f"{self.preset}:{self.sequence_length}:{self.precision}"


@dataclass(frozen=True)
class Case:
    """Two groups of processes, and what both train.

    Attributes:
        workload: What is trained.
        ranks: Processes of each group.
        stage: ZeRO's, 0-3.
        micro_batch: Sequences of a step on a rank.
        vocabulary_size: Token ids (V).
        folder: Holds the run of megadga, with its shards.
    """

    workload: Workload
    ranks: int
    stage: int
    micro_batch: int
    vocabulary_size: int
    folder: Path

    @property
    def tokens_per_step(self) -> int:
        """Targets of an optimizer step over all ranks."""
        return self.ranks * self.micro_batch * self.workload.sequence_length

    @property
    def config(self) -> Path:
        """The run of megadga."""
        return self.folder / "run.yaml"

    def labels(self) -> Row:
        """Return what tells its row from those of other cases."""
        return {
            "model": self.workload.preset,
            "sequence_length": self.workload.sequence_length,
            "precision": self.workload.precision,
            "ranks": self.ranks,
            "stage": self.stage,
        }


def parse_workload(text: str) -> Workload:
    """Return the workload of ``PRESET:LENGTH:PRECISION``, as an option of a command line.

    Raises:
        argparse.ArgumentTypeError: If it is not one.
    """
    match text.split(":"):
        case [preset, length, ("fp32" | "bf16") as precision] if (
            preset in PRESETS and length.isascii() and length.isdecimal() and int(length) > 1
        ):
            return Workload(preset, int(length), precision)
        case _:
            raise argparse.ArgumentTypeError(
                f"expected PRESET:LENGTH:PRECISION with a preset of {', '.join(PRESETS)}, a "
                f"length of at least 2, and {' or '.join(PRECISIONS)}, found {text!r}"
            )
