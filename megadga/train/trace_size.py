"""How large a run's trace becomes (without torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.run_folder.trace import frame_bytes, kept_shape


@final
@dataclass(frozen=True)
class TraceSize:
    """What the trace of a whole run comes to.

    Attributes:
        numbers: Of each sequence's projected gradient (p).
        num_bytes: Of all ranks' files in the end.
        global_batch_size: Sequences of a step (B).
    """

    numbers: int
    num_bytes: int
    global_batch_size: int

    @property
    def content(self) -> str:
        """What it consists of, for people."""
        return f"{self.numbers:,} numbers of each of {self.global_batch_size} sequences a step"

    def __str__(self) -> str:
        """Return the size and what it consists of, for people."""
        return f"{self.num_bytes / 1e9:.4g} GB in the end, {self.content}"


def predict_trace(config: RunConfig, model: LlamaModel, rows: int, *, ranks: int) -> TraceSize:
    """Return how large the trace of a run becomes, but for the files' headers.

    Args:
        config: The run, with a trace.
        model: The section `model` of it.
        rows: Of the embedding.
        ranks: Of the run.
    """
    assert config.trace is not None
    shapes: Sequence[tuple[int, ...]] = [
        *model.shape.matrices(rows),
        *((length,) for length in model.shape.norm_lengths),
    ]
    sizes = np.array([np.prod(kept_shape(each, config.trace.dimension)) for each in shapes])
    batch = config.training.global_batch_size
    num_bytes = config.training.steps * ranks * frame_bytes(sizes, batch // ranks)
    return TraceSize(int(sizes.sum()), num_bytes, batch)


def check_limit(config: RunConfig, size: TraceSize) -> None:
    """Refuse a trace that would be larger than it may be.

    Raises:
        ConfigError: If so.
    """
    assert config.trace is not None
    if size.num_bytes > config.trace.limit_gb * 1e9:
        raise config.invalid(
            *("trace", "limit_gb"),
            expected=f"at least {size.num_bytes / 1e9:.4g}, for {size.content}, "
            "or a smaller trace.dimension",
            found=f"{config.trace.limit_gb:g}",
        )
