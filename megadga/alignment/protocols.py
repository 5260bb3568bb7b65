"""The seams of alignment: what a probe and a collective do. Knows no engine and no backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from megadga.arrays import FloatArray, IntArray
from megadga.mixing.scheduler import Alignments
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


@dataclass(frozen=True)
class DrawnSequences:
    """The sequences that one gradient is measured on, read only where they are needed.

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


class GradientProbe(Protocol):
    """A way to measure ``a_i = <grad l(x_i), grad l(y)>`` at the model's present parameters."""

    def measure(self, specific: DrawnSequences, domains: Sequence[DrawnSequences]) -> Alignments:
        """Measure the alignment of every domain's gradient with the specific one.

        A gradient is that of the mean loss over its sequences' targets, padding left out; long
        sequences count more than short ones. The measurement leaves no trace in
        the engine: parameters, gradients, optimizer, random states and hooks are as before.
        Collective: every rank calls it with equal arguments and gets equal bits.
        """
        ...
