"""What one group of processes measures, as a value that travels as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from megadga.config.llama_shapes import PRESETS, LlamaShape

Section = Literal["cost", "domains", "memory", "communication"]
SECTIONS: tuple[Section, ...] = ("cost", "memory", "communication", "domains")
Row = dict[str, Any]

FULL_PROBES = ("directional", "in_flight")
LOW_RANK_PROBES = ("directional low rank", "in_flight low rank")
PROBES = ("sharded", *FULL_PROBES, *LOW_RANK_PROBES)


@dataclass(frozen=True)
class Case:
    """One engine, and what is measured on it.

    Attributes:
        sections: What is measured.
        ranks: Processes.
        stage: ZeRO's, 0-3.
        precision: ``fp32`` or ``bf16``.
        shape: The model's sizes; vocabulary aside.
        model: What rows call it.
        vocabulary_size: Token ids.
        sequence_length: Targets of a sequence (S).
        micro_batch: Sequences of a forward pass on a rank.
        accumulation: Micro-batches of an optimizer step.
        rank: Columns of low-rank factors.
        rounds: Repeats of everything that is timed, in turns.
        num_domains: For the section ``domains``: every K that is tried.
        total_sequences: For the section ``domains``: of an update, whatever K.
    """

    sections: tuple[Section, ...]
    ranks: int
    stage: int
    precision: str
    shape: LlamaShape
    model: str
    vocabulary_size: int
    sequence_length: int
    micro_batch: int
    accumulation: int
    rank: int
    rounds: int
    num_domains: tuple[int, ...]
    total_sequences: int

    @property
    def global_batch(self) -> int:
        """Sequences of an optimizer step over all ranks."""
        return self.ranks * self.micro_batch * self.accumulation

    def labels(self) -> Row:
        """Return what tells its rows from those of other cases."""
        return {
            "model": self.model,
            "ranks": self.ranks,
            "stage": self.stage,
            "precision": self.precision,
        }

    def to_json(self) -> str:
        """Return the case as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Return the case that :meth:`to_json` wrote."""
        values = json.loads(text)
        values |= {key: tuple(values[key]) for key in ("sections", "num_domains")}
        return cls(**values | {"shape": LlamaShape(**values["shape"])})


def llama_shape(width: int, num_layers: int) -> LlamaShape:
    """Return a decoder's sizes with heads of 64 features and SwiGLU at 8/3 of the width."""
    heads = max(1, width // 64)
    intermediate_size = -(-8 * width // (3 * 64)) * 64
    return LlamaShape(num_layers, width, heads, heads, intermediate_size, tied_embeddings=True)


def preset_shape(name: str) -> LlamaShape:
    """Return the sizes of one of megadga's presets."""
    return PRESETS[name]
