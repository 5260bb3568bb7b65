"""Measures updates against several specific sets. Knows no engine, weights or files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.packing import PackedSequences
from megadga.alignment.protocols import Measurement, TrainedBatch
from megadga.arrays import FloatArray
from megadga.mixing.scheduler import Alignments, TargetAlignments

MeanLoss = Callable[[PackedSequences], float]
"""From sequences to their mean loss over all targets, nats a token, at the model's present
parameters. Collective; equal bits on every rank, and no trace in the engine."""


@dataclass(frozen=True)
class Target:
    """One specific set.

    Attributes:
        measurement: Of the domains' alignments with it, between steps.
        draws: The sequences that are measured, the same of the domains for every target.
    """

    measurement: Measurement
    draws: ProbeDraws


@final
class TargetAligner:
    """Measures each target by itself, one after the other, and the loss of each.

    Costs as much as all of them, and a forward pass over their specific sequences.

    Args:
        targets: The specific sets, ``M`` of them, at least one.
        mean_loss: Measures their losses.
    """

    def __init__(self, targets: Sequence[Target], mean_loss: MeanLoss) -> None:
        assert targets
        self._targets = tuple(targets)
        self._mean_loss = mean_loss

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the step that is trained does not matter."""

    def measure(self, update: int) -> TargetAlignments:
        """Measure update number ``update`` (from 0). Collective; equal bits on every rank."""
        found = [target.measurement.measure(update) for target in self._targets]
        losses = [
            self._mean_loss(PackedSequences([target.draws.specific(update)]))
            for target in self._targets
        ]
        return _stacked(found, np.array(losses))

    def close(self) -> None:
        """Do nothing: the model is held only while it is measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        return {"targets": [target.measurement.state_dict() for target in self._targets]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        for target, each in zip(self._targets, state["targets"], strict=True):
            target.measurement.load_state_dict(each)


def _stacked(found: Sequence[Alignments], losses: FloatArray) -> TargetAlignments:
    """Return the targets' alignments as one; the domains' norms are those of the first."""
    errors = [each.standard_errors for each in found if each.standard_errors is not None]
    energies = np.array([each.direction_energy for each in found])
    return TargetAlignments(
        dots=np.stack([each.dots for each in found]),
        losses=losses,
        target_squared_norms=np.array([each.specific_squared_norm for each in found]),
        squared_norms=found[0].squared_norms,
        standard_errors=np.stack(errors) if len(errors) == len(found) else None,
        direction_energies=energies if (energies < 1.0).any() else None,
        preconditioned=all(each.preconditioned for each in found),
    )
