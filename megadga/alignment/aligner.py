"""Measures updates between optimizer steps. Knows no engine, weights or files."""

from collections.abc import Mapping
from typing import Any, final

from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.protocols import GradientProbe, TrainedBatch
from megadga.mixing.scheduler import Alignments


@final
class Aligner:
    """Measures alignments of each domain (paper, Algorithm 1), or mixture, with a target.

    Args:
        probe: The way gradients are measured.
        draws: The sequences that they are measured on.
    """

    def __init__(self, probe: GradientProbe, draws: ProbeDraws) -> None:
        self._probe = probe
        self._draws = draws

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the step that is trained does not matter."""

    def measure(self, update: int) -> Alignments:
        """Measure update number ``update`` (from 0). Collective; equal bits on every rank."""
        measured = [self._draws.measured(update, i) for i in range(self._draws.num_measured)]
        return self._probe.measure(update, self._draws.target(update), measured)

    def close(self) -> None:
        """Do nothing: the model is held only while it is measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        return self._probe.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._probe.load_state_dict(state)
