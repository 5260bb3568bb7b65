"""Reads a model's weights from a DeepSpeed checkpoint, one tensor at a time.

Files are memory-mapped: opening them reads names and shapes, and the values of a tensor are read
when they are asked for. Where the optimizer has float32 master weights, these are the weights.

    ZeRO-0     mp_rank_00_model_states.pt: the whole module; in bf16 also the optimizer's weights
    ZeRO-1, 2  *_optim_states.pt of all ranks: a vector of each parameter group, cut among ranks
    ZeRO-3     *_optim_states.pt of all ranks: of each parameter an equal part, padded
"""

import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from pickle import PickleError
from typing import Any, final

import torch
from deepspeed.checkpoint.constants import (
    BUFFER_NAMES,
    FP32_FLAT_GROUPS,
    FROZEN_PARAM_FRAGMENTS,
    FROZEN_PARAM_SHAPES,
    OPTIMIZER_STATE_DICT,
    PARAM_ALIGNMENT_PADDINGS,
    PARAM_SHAPES,
    PARTITION_COUNT,
    SINGLE_PARTITION_OF_FP32_GROUPS,
)
from torch import Tensor, nn

from megadga.errors import ResumeError
from megadga.probes.weights_only import weights_only_loading

_RANK = re.compile(r"zero_pp_rank_(\d+)_", re.ASCII)


@final
@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a checkpoint's files.

    Attributes:
        shape: Its shape.
        parts: Views of the memory-mapped files whose concatenation begins with its values.
    """

    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type that its values are stored in."""
        return self.parts[0].dtype

    @property
    def numel(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """Return a copy in memory."""
        flat = torch.cat([part.flatten() for part in self.parts])
        return flat[: self.numel].view(self.shape)

    def copy_to(self, target: Tensor, begin: int) -> None:
        """Copy a range of its values, which are read for it alone.

        Args:
            target: A vector of as many elements as are copied.
            begin: Index of the first value, of the flattened tensor.
        """
        offset = 0
        for part in slices([part.flatten() for part in self.parts], begin, begin + len(target)):
            target[offset : offset + len(part)].copy_(part)
            offset += len(part)


Weights = Mapping[str, StoredTensor]
"""Parameters and persistent buffers by name; names of tied parameters share one value."""


def open_weights(checkpoint: Path, zero_stage: int) -> Weights:
    """Return the weights in a checkpoint, in the order of its files.

    They can be read for as long as they are referenced, also after the files were removed.

    Args:
        checkpoint: The checkpoint's folder, whose files are intact (``find_damage``).
        zero_stage: ZeRO stage of the run that wrote it, from 0 to 3.

    Raises:
        ResumeError: If a file is missing, is not DeepSpeed's or has more than tensors and plain
            values in it.
    """
    with readable(checkpoint):
        if zero_stage == 0:
            return _whole(load_file(checkpoint / "mp_rank_00_model_states.pt"))
        models = files_of_ranks(checkpoint, "*_model_states.pt")
        optimizers = [
            states[OPTIMIZER_STATE_DICT]
            for states in files_of_ranks(checkpoint, "*_optim_states.pt")
        ]
        check_ranks(optimizers)
        first = models[0]
        found = _buffers(first)
        if zero_stage == 3:
            found |= _frozen(models)
            flats = [states[FP32_FLAT_GROUPS] for states in optimizers]
            found |= interleaved(first[PARAM_SHAPES], flats)
        else:
            found |= _frozen(models[:1])
            found |= concatenated(first[PARAM_SHAPES], optimizers, _masters)
        for name, same in first["shared_params"].items():
            found[name] = found[same]
        return found


@contextmanager
def readable(checkpoint: Path) -> Generator[None]:
    """Convert what unreadable or unexpected files raise to a one-line ``ResumeError``."""
    try:
        with weights_only_loading():
            yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, PickleError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ResumeError(
            f"{checkpoint}: expected a model's weights as DeepSpeed stores them, found {found}"
        ) from error


def load_file(file: Path) -> dict[str, Any]:
    """Load a file of DeepSpeed's; its tensors are memory-mapped."""
    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def files_of_ranks(checkpoint: Path, pattern: str) -> list[dict[str, Any]]:
    """Load the files that match, in the order of the ranks."""
    files = sorted(checkpoint.glob(pattern), key=_rank)
    if not files:
        raise ValueError(f"no {pattern}")
    return [load_file(file) for file in files]


def _rank(file: Path) -> int:
    named = _RANK.search(file.name)
    return 0 if named is None else int(named[1])


def check_ranks(optimizers: Sequence[Mapping[str, Any]]) -> None:
    """Check that there is a file of each rank; raise ``ValueError`` if not."""
    counts = optimizers[0][PARTITION_COUNT]
    ranks = max(counts) if isinstance(counts, list) else counts
    if ranks != len(optimizers):
        raise ValueError(f"optimizer states of {len(optimizers)} ranks, of {ranks}")


def _stored(tensor: Tensor) -> StoredTensor:
    return StoredTensor(tuple(tensor.shape), (tensor,))


def _buffers(states: Mapping[str, Any]) -> dict[str, StoredTensor]:
    module = states["module"]
    return {name: _stored(module[name]) for name in states[BUFFER_NAMES] if name in module}


def _frozen(models: Sequence[Mapping[str, Any]]) -> dict[str, StoredTensor]:
    """Return the parameters that the optimizer does not have, in the model's precision."""
    shapes: Mapping[str, Sequence[int]] = models[0].get(FROZEN_PARAM_SHAPES) or {}
    return {
        name: StoredTensor(
            tuple(shape), tuple(states[FROZEN_PARAM_FRAGMENTS][name] for states in models)
        )
        for name, shape in shapes.items()
    }


def _masters(states: Mapping[str, Any], number: int) -> Tensor:
    return states[SINGLE_PARTITION_OF_FP32_GROUPS][number]


def concatenated(
    groups: Sequence[Mapping[str, Sequence[int]]],
    optimizers: Sequence[Mapping[str, Any]],
    flat: Callable[[Mapping[str, Any], int], Tensor],
) -> dict[str, StoredTensor]:
    """Return the values of the parameters of ZeRO-1 and 2.

    A group's parameters lie one after the other, perhaps with padding, in the concatenation of the
    ranks' partitions.

    Args:
        groups: Shapes of the parameters of each group, in their order.
        optimizers: The optimizer's part of each rank's file.
        flat: Returns a rank's partition, by its part of the file and the group's number.
    """
    found: dict[str, StoredTensor] = {}
    paddings = optimizers[0].get(PARAM_ALIGNMENT_PADDINGS)
    for number, shapes in enumerate(groups):
        partitions = [flat(states, number) for states in optimizers]
        offset = 0
        for position, (name, shape) in enumerate(shapes.items()):
            end = offset + math.prod(shape)
            found[name] = StoredTensor(tuple(shape), tuple(slices(partitions, offset, end)))
            offset = end + (paddings[number][position] if paddings is not None else 0)
    return found


def interleaved(
    groups: Sequence[Mapping[str, Sequence[int]]], of_ranks: Sequence[Sequence[Tensor]]
) -> dict[str, StoredTensor]:
    """Return the values of the parameters of ZeRO-3.

    Each rank has an equal part of each parameter, the last one padded, in sub-groups that may cut
    a part in two.

    Args:
        groups: Shapes of the parameters of each group, in their order.
        of_ranks: Each rank's sub-groups.
    """
    found: dict[str, StoredTensor] = {}
    offset = 0
    for name, shape in (item for shapes in groups for item in shapes.items()):
        end = offset + -(-math.prod(shape) // len(of_ranks))
        parts = [part for flats in of_ranks for part in slices(flats, offset, end)]
        found[name] = StoredTensor(tuple(shape), tuple(parts))
        offset = end
    return found


def slices(flats: Sequence[Tensor], begin: int, end: int) -> Iterator[Tensor]:
    """Yield views of the values in ``[begin, end)`` of a concatenation."""
    bounds = list(accumulate((flat.numel() for flat in flats), initial=0))
    if end > bounds[-1]:
        raise ValueError(f"{bounds[-1]} values in the partitions, less than the {end} of a shape")
    for flat, (first, last) in zip(flats, pairwise(bounds), strict=True):
        if begin < last and first < end:
            yield flat[max(begin - first, 0) : min(end, last) - first]


def _whole(states: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Return the weights of ZeRO-0: the module's or, in bf16, the optimizer's where it has any."""
    tensors: Mapping[str, Tensor] = states["module"]
    unique: dict[tuple[int, torch.Size], StoredTensor] = {}
    module = {
        name: unique.setdefault((tensor.data_ptr(), tensor.shape), _stored(tensor))
        for name, tensor in tensors.items()
    }
    optimizer = states["optimizer"] or {}
    if (flats := optimizer.get("fp32_groups_flat")) is not None:  # of a fused optimizer
        ordered = [module[name] for name in parameter_names(states)]
        masters = dict(zip(ordered, cut([each.shape for each in ordered], flats), strict=True))
    else:
        groups = optimizer.get("fp32_groups", ())
        masters = _match([*unique.values()], [master for group in groups for master in group])
    return {name: masters.get(stored, stored) for name, stored in module.items()}


def parameter_names(states: Mapping[str, Any]) -> list[str]:
    """Return the names of a ZeRO-0 file's parameters, tied ones once, in the optimizer's order."""
    buffers = set(states[BUFFER_NAMES])
    found: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in states["module"].items():
        if name not in buffers:
            found.setdefault((tensor.data_ptr(), tensor.shape), name)
    return list(found.values())


def cut(shapes: Sequence[Sequence[int]], flats: Sequence[Tensor]) -> Iterator[StoredTensor]:
    """Yield tensors that lie one after the other in a concatenation."""
    offset = 0
    for shape in shapes:
        end = offset + math.prod(shape)
        yield StoredTensor(tuple(shape), tuple(slices(flats, offset, end)))
        offset = end


def _match(
    module: Sequence[StoredTensor], masters: Sequence[Tensor]
) -> dict[StoredTensor, StoredTensor]:
    """Return the master weights by the parameters of which they are more exact values.

    They have no names there, but the order of the parameters within each group, and each rounds to
    its parameter's values.
    """
    found: dict[StoredTensor, StoredTensor] = {}
    for master in masters:
        rounded = (
            stored
            for stored in module
            if stored not in found
            and stored.shape == tuple(master.shape)
            and torch.equal(master.to(stored.dtype), stored.parts[0])
        )
        parameter = next(rounded, None)
        if parameter is None:
            raise ValueError(f"master weights of shape {tuple(master.shape)} of no parameter")
        found[parameter] = _stored(master)
    return found


def copy_weights(weights: Weights, model: nn.Module, *, place: Path) -> None:
    """Copy a checkpoint's weights into a model of the same names and shapes, one by one.

    Args:
        weights: The weights.
        model: The model; its parameters are whole.
        place: The checkpoint, for the error.

    Raises:
        ResumeError: If names or shapes differ; names the first.
    """
    targets: dict[str, Tensor] = model.state_dict(keep_vars=True)
    check_shapes(weights, {name: target.shape for name, target in targets.items()}, place=place)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(weights[name].read())


def check_shapes(weights: Weights, expected: Mapping[str, Sequence[int]], *, place: Path) -> None:
    """Check that a checkpoint has exactly the weights of a model.

    Args:
        weights: The weights.
        expected: Shapes of the model's weights, by name.
        place: The checkpoint, for the error.

    Raises:
        ResumeError: If names or shapes differ; names the first.
    """
    for name in {**expected, **weights}:
        wanted = tuple(expected[name]) if name in expected else "none"
        found = weights[name].shape if name in weights else "none"
        if wanted != found:
            raise ResumeError(
                f"{place}: {name}: expected the shape {wanted} by its config.yaml, found {found}"
            )
