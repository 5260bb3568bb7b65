"""One engine that a prediction is compared with, as a value that travels as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from megadga.config.llama_shapes import PRESETS
from megadga.planning.workload import Decoder, Stage, Workload, Zero

Row = dict[str, Any]
_ZERO_KEYS = {
    "reduce_bucket_size": "reduce_bucket",
    "overlap_comm": "overlap_comm",
    "stage3_param_persistence_threshold": "persistence_threshold",
    "stage3_max_live_parameters": "max_live",
    "stage3_max_reuse_distance": "max_reuse_distance",
}


@dataclass(frozen=True)
class Case:
    """An engine on the CPU.

    Attributes:
        preset: Of the model's shape.
        stage: ZeRO's.
        precision: ``fp32`` or ``bf16``.
        transformers: Whether the model is transformers' Llama of that shape.
        checkpointing: Whether blocks' activations are computed again.
        micro_batch: Sequences of a forward pass on a rank.
        accumulation: Micro-batches of a step.
        sequence_length: Tokens of a sequence.
        vocabulary_size: Token ids.
        zero: More settings of ZeRO.
        rounds: Steps that are timed; 0: none.
    """

    preset: str
    stage: Stage
    precision: Literal["fp32", "bf16"] = "fp32"
    transformers: bool = False
    checkpointing: bool = False
    micro_batch: int = 2
    accumulation: int = 2
    sequence_length: int = 128
    vocabulary_size: int = 4096
    zero: dict[str, Any] = field(default_factory=lambda: {"reduce_bucket_size": 1_000_000})
    rounds: int = 0

    def workload(self, ranks: int) -> Workload:
        """Return what is planned for it."""
        decoder = Decoder.of_llama(
            PRESETS[self.preset],
            vocabulary_size=self.vocabulary_size,
            arithmetic="transformers" if self.transformers else "megadga",
        )
        given = {_ZERO_KEYS[key]: value for key, value in self.zero.items() if key in _ZERO_KEYS}
        overlap = {"overlap_comm": self.stage == 3}
        return Workload(
            decoder,
            Zero(self.stage, fused_optimizer=False, **{**overlap, **given}),
            ranks=ranks,
            sequence_length=self.sequence_length,
            micro_batch=self.micro_batch,
            accumulation=self.accumulation,
            element_bytes=2 if self.precision == "bf16" else 4,
            checkpointing=self.checkpointing,
            on_cpu=True,
        )

    def settings(self) -> dict[str, Any]:
        """Return DeepSpeed's settings."""
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": 1.0,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}},
            "zero_optimization": {"stage": self.stage, **self.zero},
            "bf16": {"enabled": self.precision == "bf16"},
        }


def to_json(cases: Sequence[Case]) -> str:
    """Return cases as JSON."""
    return json.dumps([asdict(case) for case in cases])


def from_json(text: str) -> list[Case]:
    """Return the cases that `to_json` wrote."""
    return [Case(**values) for values in json.loads(text)]
