"""Learning-rate factors as functions of the step. Knows no optimizer and no configuration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up, a plateau, and a linear decay over the last steps (WSD, arXiv 2404.06395).

    Args:
        total_num_steps: Steps of the whole schedule, at least 1.
        warmup_num_steps: Steps until the plateau, at least 0.
        decay_num_steps: Steps from the plateau to the end, at least 0.
        warmup_min_ratio: Factor of the first step if there is a warm-up, in [0, 1].
        min_ratio: Factor that the decay ends with, in [0, 1].
    """

    total_num_steps: int
    warmup_num_steps: int
    decay_num_steps: int
    warmup_min_ratio: float = 0.0
    min_ratio: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the factor of the step after ``step`` completed ones, in [0, 1]."""
        if step < self.warmup_num_steps:
            risen = step / self.warmup_num_steps
            return self.warmup_min_ratio + (1.0 - self.warmup_min_ratio) * risen
        left = max(self.total_num_steps - step, 0)
        if left < self.decay_num_steps:
            return self.min_ratio + (1.0 - self.min_ratio) * left / self.decay_num_steps
        return 1.0
