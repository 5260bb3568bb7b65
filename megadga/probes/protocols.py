"""Protocols of collectives, probes and measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.base import Alignments
from megadga.probes.sequences import ProbeSequences, TrainedBatch


class Collective(Protocol):
    """The group of ranks that hold the parts of one gradient."""

    @property
    def rank(self) -> int:
        """This process's place in the group, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks in the group, at least 1."""
        ...

    def agreed_sum(self, numbers: FloatArray) -> FloatArray:
        """Sum ``numbers`` over the ranks; every rank gets the same bits.

        Collective: every rank calls it, with arrays of one shape.
        """
        ...


@dataclass(frozen=True, eq=False)
class MeasuredSequences:
    """Derivatives of single sequences along a direction.

    Attributes:
        along: Of the sum of each sequence's losses, shape ``(N,)``.
        num_targets: Targets of each, shape ``(N,)``.
        sets: Which of the sets that were asked for each is from, shape ``(N,)``.
    """

    along: FloatArray
    num_targets: IntArray
    sets: IntArray


@dataclass(frozen=True, eq=False)
class InFlightStart:
    """Measurements of an update before its batch is trained.

    Attributes:
        separate: What was measured on sequences outside of the batch.
        specific_squared_norm: See ``Alignments``.
        direction_energy: See ``Alignments``.
        preconditioned: See ``Alignments``.
    """

    separate: MeasuredSequences
    specific_squared_norm: float
    direction_energy: float
    preconditioned: bool


class TrainingProbe(Protocol):
    """Measures alignments on the sequences of an optimizer step."""

    def start(
        self, update: int, specific: ProbeSequences, separate: Sequence[ProbeSequences]
    ) -> InFlightStart:
        """Measure ``separate`` sequences, then hook the training step without changing its bits.

        Collective: every rank calls it with equal arguments, before the step's first forward pass.
        """
        ...

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """Remove the hooks; return the derivative of each sequence's summed loss, shape ``(B,)``.

        Collective; equal bits on every rank.
        """
        ...

    def close(self) -> None:
        """Remove the hooks, if there are any."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...


class Measurement(Protocol):
    """Measures the alignments of a mixture's updates."""

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Prepare an update before its step is trained. Collective.

        Args:
            update: Number of the update, from 0.
            batch: What the step trains on.
        """
        ...

    def measure(self, update: int) -> Alignments:
        """Measure ``a_i = <grad l(x_i), grad l(y)>`` of every domain in update ``update``, from 0.

        A gradient is that of the mean loss over its sequences' targets, padding left out; long
        sequences count more than short ones. The measurement leaves no trace in the engine:
        parameters, gradients, optimizer, random states and hooks are as before. Collective; equal
        bits on every rank.
        """
        ...

    def close(self) -> None:
        """Remove hooks of a step that was prepared but not trained."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...
