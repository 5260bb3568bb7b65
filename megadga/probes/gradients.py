"""Gradients sharded over the ranks, and directions in parameter space."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from deepspeed.runtime.zero.partition_parameters import is_zero_param
from torch import Tensor, nn

from megadga.probes.collective import ProcessGroupCollective

_CHUNK = 1 << 22  # elements; bounds the float64 copies of a dot product to 2 x 32 MiB


@final
class GradientShard:
    """One contiguous float32 part of a gradient; the parts of all ranks make up the whole.

    Attributes:
        values: This rank's elements, shape ``(elements,)``, float32. Padding is zero.
    """

    def __init__(self, values: Tensor) -> None:
        assert values.ndim == 1
        assert values.dtype == torch.float32
        self.values = values

    def dot(self, other: "GradientShard") -> float:
        """Return this rank's summand of ``<self, other>``, accumulated in float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.values.device)
        for start in range(0, self.values.numel(), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            total += torch.dot(self.values[chunk].double(), other.values[chunk].double())
        return float(total)


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank matrix, the product ``left @ right.T``.

    Attributes:
        left: Shape ``(rows, rank)``.
        right: Shape ``(columns, rank)``.
    """

    left: Tensor
    right: Tensor


class Direction(Protocol):
    """A direction in parameter space, in one piece per parameter.

    Attributes:
        scale: Pieces are those of the direction times this, a power of two (see
            ``storage_scale``): derivatives along them are to be divided by it.
    """

    scale: float

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Tell whether the direction has a piece for a parameter; without one it is 0 there."""
        ...

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """Return a parameter's piece if it is stored as low-rank factors, else None."""
        ...

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """Return a parameter's piece as a dense tensor of its shape.

        Collective where pieces are spread over ranks: every rank asks for the same parameters in
        the same order.
        """
        ...

    def begin_pass(self) -> None:
        """Tell that a forward and a backward pass begin, which ask for pieces.

        Collective where pieces are spread over ranks.
        """
        ...


_TYPICAL = 2.0**-8  # of an element in float16: 2**-14 to 2**16 are kept to 11 bits


def storage_scale(parameters: Sequence[nn.Parameter], length: float) -> float:
    """Return the power of two that a direction is multiplied by where it is stored in float16.

    A gradient's elements may be below the least number of float16. Its range is that of elements
    from 1/64 to 2**23 times their root mean square; along the larger ones, products with
    activations still are within it. 1 where no parameter is of float16.

    Args:
        parameters: Those that the direction has pieces for.
        length: Of the direction.
    """
    if all(parameter.dtype != torch.float16 for parameter in parameters):
        return 1.0
    if not 0.0 < length < math.inf:
        return 1.0
    typical = length / math.sqrt(sum(map(num_elements, parameters)))
    return 2.0 ** round(math.log2(_TYPICAL / typical))


@final
class ResidentDirection:
    """A direction that every rank holds completely.

    Args:
        pieces: Each whole, of its parameter's shape, or as factors.
        scale: See ``Direction``.
    """

    def __init__(
        self, pieces: Mapping[nn.Parameter, Tensor | Factors], *, scale: float = 1.0
    ) -> None:
        self.scale = scale
        self._pieces = pieces

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter in self._pieces

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``."""
        piece = self._pieces[parameter]
        return piece if isinstance(piece, Factors) else None

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``. Communicates nothing."""
        piece = self._pieces[parameter]
        return piece.left @ piece.right.T if isinstance(piece, Factors) else piece

    def begin_pass(self) -> None:
        """See ``Direction``. Does nothing."""


@final
class OnePiece:
    """A direction restricted to a single parameter.

    Args:
        direction: Has the piece.
        parameter: Moves.
    """

    def __init__(self, direction: Direction, parameter: nn.Parameter) -> None:
        self.scale = direction.scale
        self._direction = direction
        self._parameter = parameter

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """See ``Direction``."""
        return parameter is self._parameter

    def factors(self, parameter: nn.Parameter) -> Factors | None:
        """See ``Direction``."""
        assert parameter in self
        return self._direction.factors(parameter)

    def dense(self, parameter: nn.Parameter) -> Tensor:
        """See ``Direction``, also for what is collective."""
        assert parameter in self
        return self._direction.dense(parameter)

    def begin_pass(self) -> None:
        """See ``Direction``. Does nothing: the whole direction's passes are begun once for all."""


def num_elements(parameter: nn.Parameter) -> int:
    """Return the parameter's full size, also where ZeRO-3 keeps only a part of it here."""
    if is_zero_param(parameter):
        return int(parameter.ds_numel)  # pyright: ignore[reportAttributeAccessIssue]
    return parameter.numel()


def full_shape(parameter: nn.Parameter) -> torch.Size:
    """Return a parameter's shape, also where ZeRO-3 keeps only a part of it here."""
    if is_zero_param(parameter):
        return parameter.ds_shape  # pyright: ignore[reportAttributeAccessIssue]
    return parameter.shape


def trained_matrices(module: nn.Module) -> list[tuple[int, int]]:
    """Return the shapes of a module's trainable matrices, also where ZeRO-3 has parts."""
    shapes = [full_shape(p) for p in module.parameters() if p.requires_grad]
    return [(shape[0], shape[1]) for shape in shapes if len(shape) == 2]


@final
class ShardLayout:
    """Offsets of each parameter's part in a rank's shard.

    Args:
        parameters: The trainable parameters, in the same order on every rank.
        world_size: Number of ranks the gradient is divided over.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world_size: int) -> None:
        self.world_size = world_size
        self.part_sizes = [-(-num_elements(p) // world_size) for p in parameters]
        self.offsets = [0]
        for size in self.part_sizes:
            self.offsets.append(self.offsets[-1] + size)

    def parts(self, shard: Tensor) -> tuple[Tensor, ...]:
        """Return views of a shard's values, one per parameter."""
        return shard.split(self.part_sizes)


@final
class ShardedSum:
    """Sums gradients over micro-batches and ranks, and keeps this rank's shard alone.

    Gradients arrive one parameter at a time, in whatever order a backward pass makes them on this
    rank. They enter a bucket in one order, from the last parameter to the first, which is about
    that of a backward pass: what comes early waits. Full buckets are reduce-scattered, so that a
    full gradient is never held. Buckets are thus the same on every rank, whatever its gradients'
    order is.

    Args:
        layout: How the gradient is divided.
        collective: The ranks that hold the parts.
        device: Where the shard lives.
        bucket_elements: Elements of float32 that wait for one reduce-scatter; a parameter that
            has more goes alone, and is not copied.
    """

    def __init__(
        self,
        layout: ShardLayout,
        collective: ProcessGroupCollective,
        *,
        device: torch.device,
        bucket_elements: int = 1 << 22,
    ) -> None:
        self._layout = layout
        self._collective = collective
        self._bucket_elements = bucket_elements
        self._bucket: list[tuple[int, Tensor]] = []
        self._early: dict[int, Tensor] = {}
        self._next = len(layout.part_sizes) - 1
        self._shard = torch.zeros(layout.offsets[-1], dtype=torch.float32, device=device)

    def add(self, index: int, gradient: Tensor) -> None:
        """Add one parameter's local gradient. Collective if the bucket is full.

        Every rank adds every parameter as often as any other, and again only when it has added
        all of them.
        """
        assert index not in self._early
        self._early[index] = gradient.detach()
        while (ready := self._early.pop(self._next, None)) is not None:
            self._append(self._next, ready)
            self._next = (self._next or len(self._layout.part_sizes)) - 1

    def _append(self, index: int, gradient: Tensor) -> None:
        flat = gradient.reshape(-1).float()
        padding = self._layout.part_sizes[index] * self._layout.world_size - flat.numel()
        rows = nn.functional.pad(flat, (0, padding)).view(self._layout.world_size, -1)
        waiting = sum(others.numel() for _, others in self._bucket)
        if waiting + rows.numel() > self._bucket_elements:
            self._flush()
        self._bucket.append((index, rows))

    def finish(self) -> GradientShard:
        """Return the sum of all that was added. Collective."""
        assert not self._early
        self._flush()
        return GradientShard(self._shard)

    def _flush(self) -> None:
        if not self._bucket:
            return
        indices = [index for index, _ in self._bucket]
        rows = [waiting for _, waiting in self._bucket]
        self._bucket = []
        whole = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        own = self._collective.reduce_scatter(whole)
        parts = self._layout.parts(self._shard)
        for index, part in zip(indices, own.split([r.shape[1] for r in rows]), strict=True):
            parts[index].add_(part)
