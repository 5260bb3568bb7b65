"""The learning-rate schedule that DeepSpeed lacks: warm-up, stable, decay. Knows no torch."""

from typing import Self

from pydantic import model_validator

from megadga.config.base import Count, Section, Share, Whole
from megadga.config.mistakes import as_error
from megadga.config.places import Mistake

STABLE_DECAY = "WarmupStableDecayLR"
"""The ``scheduler.type`` in DeepSpeed's JSON that selects it."""


class StableDecaySection(Section):
    """Linear warm-up to the optimizer's learning rate, a plateau, then linear decay."""

    warmup_num_steps: Whole
    """Optimizer steps of warm-up, at least 0."""
    decay_num_steps: Whole
    """Optimizer steps of decay, the last ones, at least 0."""
    total_num_steps: Count
    """Optimizer steps of the whole schedule; "auto" in the file: training.steps."""
    warmup_min_ratio: Share = 0.0
    """Learning rate where warm-up starts, as a share of the optimizer's, in [0, 1]."""
    min_ratio: Share = 0.0
    """Learning rate where decay ends, as a share of the optimizer's, in [0, 1]."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_num_steps + self.decay_num_steps > self.total_num_steps:
            expected = f"at most {self.total_num_steps - self.warmup_num_steps} (total - warm-up)"
            found = str(self.decay_num_steps)
            raise as_error([Mistake(("decay_num_steps",), expected, found)])
        return self
