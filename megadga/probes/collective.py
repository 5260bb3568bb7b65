"""Collectives over torch.distributed whose results have equal bits on every rank."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megadga.arrays import FloatArray

# torch 2.13 gave these new names, and warns of the old ones.
_RENAMED = hasattr(dist, "reduce_scatter_single")


_REDUCE_SCATTER = "reduce_scatter_single" if _RENAMED else "reduce_scatter_tensor"


_ALL_GATHER = "all_gather_single" if _RENAMED else "all_gather_into_tensor"


@final
class PendingGather:
    """An all-gather that was started.

    Args:
        gathered: Where it puts its result, shape ``(world_size, elements)``.
        work: What is waited for.
    """

    def __init__(self, gathered: Tensor, work: dist.Work) -> None:
        self._gathered = gathered
        self._work: dist.Work | None = work

    def rows(self) -> Tensor:
        """Wait, and return every rank's part, shape ``(world_size, elements)``."""
        if self._work is not None:
            self._work.wait()
        self._work = None
        return self._gathered


@final
class ProcessGroupCollective:
    """The ranks of one data-parallel process group.

    Args:
        group: A ``torch.distributed`` process group; None means all ranks.
        device: Where its backend expects tensors.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)

    def agreed_sum(self, numbers: FloatArray) -> FloatArray:
        """Sum over the ranks and broadcast rank 0's result. Collective.

        An all-reduce alone may add in a different order on each rank.
        """
        tensor = torch.from_numpy(np.array(numbers, dtype=np.float64)).to(self._device)
        dist.all_reduce(tensor, group=self._group)
        return self.of_first_rank(tensor.cpu().numpy())

    def merged(self, numbers: FloatArray) -> FloatArray:
        """Sum numbers that are 0 on all ranks but one. Collective: one all-reduce.

        Such sums are exact in any order, as are those of integers below 2**53, so every rank has
        the same bits without a broadcast.
        """
        tensor = torch.from_numpy(np.array(numbers, dtype=np.float64)).to(self._device)
        dist.all_reduce(tensor, group=self._group)
        return tensor.cpu().numpy()

    def of_first_rank(self, numbers: FloatArray) -> FloatArray:
        """Broadcast rank 0's ``numbers``; the other ranks' give the shape only. Collective."""
        tensor = torch.from_numpy(np.array(numbers, dtype=np.float64)).to(self._device)
        dist.broadcast(tensor, group_src=0, group=self._group)
        return tensor.cpu().numpy()

    def reduce_scatter(self, parts: Tensor) -> Tensor:
        """Sum ``parts`` over the ranks and return this rank's row. Collective.

        Args:
            parts: One row for each rank, shape ``(world_size, elements)``, contiguous.
        """
        own = parts.new_empty(parts.shape[1])
        getattr(dist, _REDUCE_SCATTER)(own, parts.flatten(), group=self._group)
        return own

    def all_gather(self, own: Tensor) -> Tensor:
        """Return every rank's ``own``, shape ``(world_size, elements)``. Collective.

        Args:
            own: Shape ``(elements,)``, contiguous, as many on every rank.
        """
        return self.start_all_gather(own).rows()

    def start_all_gather(self, own: Tensor) -> PendingGather:
        """Start an all-gather, and return at once. Collective.

        Every rank starts it at the same place among its collectives.

        Args:
            own: Shape ``(elements,)``, contiguous, as many on every rank; not changed before the
                end.
        """
        gathered = own.new_empty(self.world_size * own.numel())
        work = getattr(dist, _ALL_GATHER)(gathered, own, group=self._group, async_op=True)
        return PendingGather(gathered.view(self.world_size, -1), work)

    def agreed_sum_of_tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum each tensor over the ranks and broadcast rank 0's result. Collective.

        Args:
            tensors: At least one, of one dtype and device, of the same shapes on every rank.
        """
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=self._group)
        dist.broadcast(flat, group_src=0, group=self._group)
        return _like(tensors, flat)

    def tensors_of_first_rank(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Broadcast rank 0's tensors; the other ranks' give the shapes only. Collective."""
        if not tensors:
            return []
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.broadcast(flat, group_src=0, group=self._group)
        return _like(tensors, flat)

    def object_of_first_rank(self, value: Any) -> Any:
        """Broadcast rank 0's value, of any picklable type. Collective."""
        values = [value if self.rank == 0 else None]
        dist.broadcast_object_list(values, group_src=0, group=self._group)
        return values[0]

    def objects(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of the ranks. Collective."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values


def _like(tensors: Sequence[Tensor], flat: Tensor) -> list[Tensor]:
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
