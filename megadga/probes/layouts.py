"""Where the sequences of a micro-batch lie in the outputs of a model's modules."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import final

from torch import Tensor

from megadga.probes.sequence_rows import SequenceRows


@dataclass(frozen=True)
class Layout:
    """Where the sequences lie in one output of a module, at any size of the micro-batch.

    Attributes:
        shape: Of one sequence's part of the output.
        axis: The axis along which the sequences lie.
        interleaved: Whether they take turns along it.
        shared: None, or how the output gets a row a sequence: ``"axis"`` repeats it along its
            axis, which has length 1, ``"new"`` along a new first axis.
    """

    shape: tuple[int, ...]
    axis: int
    interleaved: bool = False
    shared: str | None = None

    @property
    def has_rows(self) -> bool:
        """Whether the output has a row a sequence along its first axis."""
        return self.axis == 0 and self.shape[0] == 1 and self.shared is None

    def fits(self, shape: Sequence[int], num_sequences: int) -> bool:
        """Tell whether this can be the layout of an output of a shape."""
        if self.shared is not None:
            return tuple(shape) == self.shape[1 if self.shared == "new" else 0 :]
        if self.has_rows and len(shape) == len(self.shape) > 2:
            # However long the longest of them is.
            return shape[0] == num_sequences and shape[-1] == self.shape[-1]
        length = self.shape[self.axis] * num_sequences
        return tuple(shape) == (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])

    def apply(self, output: Tensor, num_sequences: int) -> tuple[Tensor, SequenceRows]:
        """Return an output, repeated if sequences share it, and where they are in it."""
        if self.shared == "new":
            return output.expand(num_sequences, *output.shape), SequenceRows(num_sequences)
        if self.shared == "axis":
            shape = list(output.shape)
            shape[self.axis] = num_sequences
            output = output.expand(shape)
        return output, SequenceRows(num_sequences, self.axis, self.interleaved)


@final
class Layouts:
    """The layouts of the outputs of a model's modules.

    Args:
        of_outputs: By name of the module and place among its floating-point outputs; several where
            its calls differ.
        unknown: Modules with an output of which that is not known, and its shape.

    Attributes:
        unknown: As given.
    """

    def __init__(
        self,
        of_outputs: Mapping[tuple[str, int], AbstractSet[Layout]],
        unknown: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._of_outputs = of_outputs
        self.unknown = unknown

    def find(
        self, name: str, place: int, shape: Sequence[int], num_sequences: int
    ) -> Layout | None:
        """Return the layout of an output, None if it is not known or there is a choice."""
        known = self._of_outputs.get((name, place), ())
        fitting = [layout for layout in known if layout.fits(shape, num_sequences)]
        return fitting[0] if len(fitting) == 1 else None


NO_LAYOUTS = Layouts({}, {})
"""Enough for micro-batches of one sequence."""
