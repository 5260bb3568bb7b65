"""The one sum over the ranks that a training step makes. Knows no model and no domain."""

from typing import Protocol, final

import numpy as np
from torch import Tensor

from megadga.arrays import FloatArray
from megadga.plugin import Batch
from megadga.train.stopping import AgreedStop


class DataParallelRanks(Protocol):
    """The data-parallel ranks, as far as training talks to them."""

    @property
    def rank(self) -> int:
        """This process's place, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def merged(self, numbers: FloatArray) -> FloatArray:
        """Sum what is 0 on all ranks but one, or whole; every rank gets the same bits. Collective.

        Every rank calls it, with arrays of one shape.
        """
        ...


@final
class StepSum:
    """Brings together what each rank knows of its sequences, and whether it is to stop.

    Args:
        ranks: The data-parallel ranks.
        stop: Asked and told at every sum; None: nobody stops.
    """

    def __init__(self, ranks: DataParallelRanks, stop: AgreedStop | None = None) -> None:
        self._ranks = ranks
        self._stop = stop

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """Return numbers of every sequence of the global batch. Collective: one sum in all.

        Args:
            batch: Says where this rank's sequences belong.
            own: Numbers of this rank's sequences, each of shape ``(accumulation, micro batch)``.

        Returns:
            For each of ``own`` those of all ranks, shape ``(B,)``, the same bits on every rank.
        """
        size = batch.indices.global_domains.size
        numbers = np.zeros(len(own) * size + 1)
        for begin, part in zip(range(0, len(own) * size, size), own, strict=True):
            numbers[begin + batch.indices.rows] = part.double().cpu().numpy()
        if self._stop is not None:
            numbers[-1] = self._stop.own()
        merged = self._ranks.merged(numbers)
        if self._stop is not None:
            self._stop.take_in(merged[-1])
        return tuple(merged[:-1].reshape(len(own), size))
