"""The seams of alignment: what a probe and a collective do. Knows no engine and no backend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.mixing.scheduler import Alignments
from megadga.sampling.selection import Selection
from megadga.shards.reader import read_windows
from megadga.shards.sequences import SequenceSet


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


class Drawn(Protocol):
    """The sequences that one gradient is measured on, read only where they are needed."""

    def __len__(self) -> int:
        """Return their number ``N``, at least 1."""
        ...

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        ...

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        ...


@dataclass(frozen=True)
class DrawnSequences:
    """Sequences of one set; ``Drawn``.

    Attributes:
        domain: Where they come from.
        sequences: Their indices there, shape ``(N,)``, ``N >= 1``.
    """

    domain: SequenceSet
    sequences: IntArray

    def __len__(self) -> int:
        return self.sequences.size

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        return self.domain.windows(self.sequences[rows])

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        return self.domain.num_targets(self.sequences)


@dataclass(frozen=True, eq=False)
class DrawnMixture:
    """Sequences of several domains; ``Drawn``.

    Attributes:
        domains: All domains, ``K`` of them, of one sequence length.
        selection: The sequences, ``N >= 1``.
    """

    domains: Sequence[SequenceSet]
    selection: Selection

    def __len__(self) -> int:
        return len(self.selection)

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        owners, sequences = self.selection.domains, self.selection.sequences
        return read_windows(self.domains, Selection(owners[rows], sequences[rows]))

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        owners, sequences = self.selection.domains, self.selection.sequences
        counts = np.empty(len(self), dtype=np.int64)
        for owner in map(int, np.unique(owners)):
            rows = owners == owner
            counts[rows] = self.domains[owner].num_targets(sequences[rows])
        return counts


@dataclass(frozen=True, eq=False)
class DrawnPart:
    """Some of other drawn sequences; ``Drawn``.

    Attributes:
        whole: The others.
        rows: Their places there, shape ``(N,)``, ``N >= 1``.
    """

    whole: Drawn
    rows: IntArray

    def __len__(self) -> int:
        return self.rows.size

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        return self.whole.read(self.rows[rows])

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        return self.whole.num_targets()[self.rows]


@dataclass(frozen=True, eq=False)
class TrainedBatch:
    """The sequences of one optimizer step, none of them padded.

    Attributes:
        domains: Domain of each sequence of the global batch, shape ``(B,)``.
        rows: Places there of this rank's sequences, shape ``(accumulation, micro batch)``.
        sequence_length: Targets of each (S).
    """

    domains: IntArray
    rows: IntArray
    sequence_length: int


class GradientProbe(Protocol):
    """A way to measure ``a_i = <grad l(x_i), grad l(y)>`` at the model's present parameters."""

    def measure(self, update: int, specific: Drawn, domains: Sequence[Drawn]) -> Alignments:
        """Measure the alignment of every domain's gradient with the specific one.

        A gradient is that of the mean loss over its sequences' targets, padding left out; long
        sequences count more than short ones. The measurement leaves no trace in
        the engine: parameters, gradients, optimizer, random states and hooks are as before.
        Collective: every rank calls it with equal arguments and gets equal bits.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
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
class Watch:
    """What is known of an update before its batch is trained.

    Attributes:
        apart: What was measured apart from the batch.
        specific_squared_norm: See ``Alignments``.
        direction_energy: See ``Alignments``.
        preconditioned: See ``Alignments``.
    """

    apart: MeasuredSequences
    specific_squared_norm: float
    direction_energy: float
    preconditioned: bool


class TrainingProbe(Protocol):
    """A way to measure alignments on the sequences that an optimizer step trains on."""

    def start(self, update: int, specific: Drawn, apart: Sequence[Drawn]) -> Watch:
        """Measure some domains apart, then watch training, which keeps its bits.

        Collective: every rank calls it with equal arguments, before the step's first forward pass.
        """
        ...

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """Stop watching; return the derivative of each sequence's summed loss, shape ``(B,)``.

        Collective; equal bits on every rank.
        """
        ...

    def close(self) -> None:
        """Stop watching, if it watches."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...


class Measurement(Protocol):
    """What a mixture's updates get their alignments from."""

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Get ready for an update, before the step that it follows is trained. Collective.

        Args:
            update: Number of the update, from 0.
            batch: What the step trains on.
        """
        ...

    def measure(self, update: int) -> Alignments:
        """Measure update number ``update``. Collective; equal bits on every rank."""
        ...

    def close(self) -> None:
        """Let go of the model, if a step was prepared and never trained."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...
