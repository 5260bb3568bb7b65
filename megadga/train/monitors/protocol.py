"""What a monitor does, and why these are not DeepSpeed's.

DeepSpeed's monitor classes cannot go on with a run: they start another one in Weights & Biases and
Comet, repeat the steps since the checkpoint in TensorBoard, and write a second header into CSV
files. They take no name, no configuration and no offline mode, either. So each package is used by
itself here; DeepSpeed's classes only serve the blocks of its own JSON (``deepspeed.py``).
"""

from collections.abc import Mapping
from typing import Protocol


class Monitor(Protocol):
    """Receives a run's numbers, on one rank. Any exception means that it has failed for now."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of optimizer step ``step``, by name; several times for some steps."""
        ...

    def go_back(self, step: int) -> None:
        """Go on after an earlier step, whose successors are trained again, other ones maybe."""
        ...

    def flush(self) -> None:
        """Write what has been taken, where that is not done by itself."""
        ...

    def close(self) -> None:
        """Write all of it, and end."""
        ...
