"""A run as one frozen value. Knows neither YAML nor torch."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from megadga.config.mixing import Mixing
from megadga.config.section import Section
from megadga.config.sections import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    LlamaModel,
    SamplingSection,
    TrainingSection,
)


class RunConfig(Section):
    """One training run, whole."""

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """Seed of everything random: initialisation, batches, probes; in [0, 2^63)."""
    output: Path
    """Folder of the run's metrics and checkpoints, relative to the working directory."""
    model: LlamaModel
    """What is trained."""
    data: DataSection
    """What it is trained on."""
    mixing: Mixing
    """How the weights of the domains are set: type dga, static or importance."""
    sampling: SamplingSection = SamplingSection()
    """How batches are drawn from the weights."""
    training: TrainingSection
    """How long and in which batches."""
    deepspeed: dict[str, Any]
    """DeepSpeed's own settings: optimizer, schedule, ZeRO. A path to its JSON, relative to this
    file, or the settings themselves."""
    evaluation: EvaluationSection | None = EvaluationSection()
    """Losses on held-out splits; null: none."""
    checkpoint: CheckpointSection | None = CheckpointSection()
    """What is kept to resume from; null: nothing."""
