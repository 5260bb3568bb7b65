"""Loads a checkpoint into an engine of another layout: ranks, ZeRO stage, offload, precision.

Nothing is converted on disk. Every rank maps the files of all ranks that wrote them into memory,
reads the values of its own partitions by parameter (`states`), and has DeepSpeed load these as it
loads a file of its own. So a rank reads what it keeps, and an interruption leaves nothing behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.checkpoint.constants import (
    BASE_OPTIMIZER_STATE,
    FP32_FLAT_GROUPS,
    OPTIMIZER_STATE_DICT,
    SINGLE_PARTITION_OF_FP32_GROUPS,
)
from deepspeed.ops.adam import FusedAdam
from deepspeed.ops.lion import FusedLion
from torch import Tensor, nn

from megadga.errors import ResumeError
from megadga.probes.gradients import full_shape
from megadga.train.states import TrainingStates, as_number, as_tensor
from megadga.train.weights import Weights, copy_weights


@final
@dataclass(frozen=True)
class Piece:
    """A range of a parameter in a vector of the optimizer.

    Attributes:
        name: The parameter.
        begin: Index of the first value, of the flattened parameter.
        end: Index after the last one.
        offset: Where it begins in the vector.
    """

    name: str
    begin: int
    end: int
    offset: int


@final
@dataclass(frozen=True)
class Partition:
    """One of this rank's tensors that the optimizer steps: float32 weights, perhaps padded.

    Attributes:
        shape: Its shape.
        pieces: What lies in it; the rest is padding.
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def fill(self, stored: Weights, advance: Callable[[int], object]) -> Tensor:
        """Return its values in memory; zeros for padding and for parameters without any.

        Args:
            stored: Values by parameter.
            advance: Called with the number of values of each piece.
        """
        values = torch.zeros(torch.Size(self.shape).numel(), dtype=torch.float32)
        for piece in self.pieces:
            if piece.name in stored:
                target = values[piece.offset : piece.offset + piece.end - piece.begin]
                stored[piece.name].copy_to(target, piece.begin)
            advance(piece.end - piece.begin)
        return values.view(self.shape)


def num_values(engine: Any, found: TrainingStates) -> int:
    """Return how many values this rank reads for its optimizer: weights and states."""
    pieces = (piece for each in partitions_of(engine) for piece in each.pieces)
    return sum(piece.end - piece.begin for piece in pieces) * (1 + len(found.states))


def load_states(
    engine: Any, found: TrainingStates, place: Path, *, advance: Callable[[int], object]
) -> None:
    """Load weights, the optimizer's states and counters into an engine. Collective.

    The options of the optimizer, such as its learning rate, stay as they are.

    Args:
        engine: DeepSpeed's, newly made.
        found: What training goes on from.
        place: The checkpoint, for errors.
        advance: Called with numbers of values, as they are read for the optimizer.

    Raises:
        ResumeError: If the checkpoint is not one of this model, or the optimizer's states are none
            that can be divided otherwise.
    """
    _check(engine, found, place)
    stage: int = engine.zero_optimization_stage()
    if stage == 3:
        engine.optimizer.checkpoint_event_prologue()
        _copy_undivided(engine.module, found.weights)
    else:
        copy_weights(found.weights, engine.module, place=place)
    _load_optimizer(engine, found, advance)
    if stage == 3:
        engine.optimizer.checkpoint_event_epilogue()
    engine.global_steps = found.global_steps
    engine.global_samples = found.global_samples
    engine.skipped_steps = found.skipped_steps


def _check(engine: Any, found: TrainingStates, place: Path) -> None:
    """Check names and shapes of the parameters, and that nothing unknown keeps states."""
    for name, parameter in engine.module.named_parameters():
        expected = tuple(full_shape(parameter))
        shape = found.weights[name].shape if name in found.weights else "none"
        if shape != expected:
            raise ResumeError(f"{place}: {name}: expected the shape {expected}, found {shape}")
    if engine.zero_nvme_offload_optimizer():
        raise ResumeError(
            f"{place}: expected optimizer states in memory, to divide them otherwise, found "
            "zero_optimization.offload_optimizer.device: nvme"
        )
    kind = type(engine.basic_optimizer).__name__
    has_stepped = found.global_steps > found.skipped_steps
    if has_stepped and not found.states and kind != "SGD":  # which has none without momentum
        raise ResumeError(f"{place}: expected states of {kind} in its files, found none")
    if "Muon" in kind:
        raise ResumeError(
            f"{place}: expected an optimizer with one state for each weight, to divide its states "
            f"otherwise, found {kind}"
        )


def _copy_undivided(module: nn.Module, weights: Weights) -> None:
    """Copy buffers and untrained parameters, which the optimizer of ZeRO-3 has not. Collective."""
    kept = module.state_dict().keys()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in kept:
                buffer.copy_(weights[name].read())
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(weights[name].read())


def _load_optimizer(engine: Any, found: TrainingStates, advance: Callable[[int], object]) -> None:
    """Have DeepSpeed load this rank's partitions as if it had saved them. Collective."""
    optimizer = engine.optimizer
    own = partitions_of(engine)

    def masters() -> list[Tensor]:
        return [each.fill(found.weights, advance) for each in own]

    def base(of_base: Mapping[str, Any]) -> dict[str, Any]:
        return _base(engine, of_base, own, found, advance)

    # What it would save now, with other values: DeepSpeed loads it with its own code.
    template: Mapping[str, Any] = optimizer.state_dict()
    rank = dist.get_rank(engine.data_parallel_group)
    match engine.zero_optimization_stage():
        case 3:
            saved = {
                **template,
                OPTIMIZER_STATE_DICT: base(template[OPTIMIZER_STATE_DICT]),
                FP32_FLAT_GROUPS: masters(),
            }
            optimizer.load_state_dict(state_dict_list={rank: saved}, load_optimizer_states=True)
        case 1 | 2:
            saved = {
                **template,
                BASE_OPTIMIZER_STATE: base(template[BASE_OPTIMIZER_STATE]),
                SINGLE_PARTITION_OF_FP32_GROUPS: masters(),
            }
            optimizer.load_state_dict(
                state_dict_list={rank: saved},
                load_optimizer_states=True,
                load_from_fp32_weights=True,
            )
        case _ if optimizer is engine.basic_optimizer:  # float32: it steps the parameters
            optimizer.load_state_dict(base(template))
        case _:
            of_base = base(template[OPTIMIZER_STATE_DICT])
            flat = {"fp32_groups_flat": masters()} if "fp32_groups_flat" in template else {}
            whole = {} if flat else {"fp32_groups": [masters()]}  # the run has one group
            optimizer.load_state_dict({**template, OPTIMIZER_STATE_DICT: of_base, **flat, **whole})


def _base(
    engine: Any,
    template: Mapping[str, Any],
    own: Sequence[Partition],
    found: TrainingStates,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """Return the state of torch's optimizer, as its ``state_dict`` would be."""
    in_groups = isinstance(engine.basic_optimizer, FusedAdam | FusedLion)
    of_torch = type(engine.basic_optimizer).__module__.startswith("torch.")
    scalar: Callable[[Any], Any] = as_tensor if of_torch else lambda value: int(as_number(value))
    groups: list[dict[str, Any]] = [dict(group) for group in template["param_groups"]]
    scalars = found.scalars
    if in_groups and "step" in scalars:
        for group in groups:
            group["step"] = int(as_number(scalars["step"]))
        scalars = {key: value for key, value in scalars.items() if key != "step"}
    states = {
        index: {
            **{key: each.fill(stored, advance) for key, stored in found.states.items()},
            **{key: scalar(value) for key, value in scalars.items()},
        }
        for index, each in enumerate(own)
        if _has_states(each, found)
    }
    return {"state": states, "param_groups": groups}


def _has_states(partition: Partition, found: TrainingStates) -> bool:
    """Whether any of its parameters was stepped; a vector of many always was."""
    if not found.states:
        return bool(found.scalars)
    return not partition.pieces or any(
        piece.name in stored for stored in found.states.values() for piece in partition.pieces
    )


def partitions_of(engine: Any) -> list[Partition]:
    """Return this rank's tensors that the optimizer steps, in its order.

    Args:
        engine: DeepSpeed's.
    """
    match engine.zero_optimization_stage():
        case 3:
            return _of_sub_groups(engine)
        case 1 | 2:
            return _of_groups(engine)
        case _:
            return _of_parameters(engine)


def _of_sub_groups(engine: Any) -> list[Partition]:
    optimizer, rank = engine.optimizer, dist.get_rank(engine.data_parallel_group)
    found: list[Partition] = []
    for group, flat in zip(
        optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True
    ):
        pieces: list[Piece] = []
        offset = 0
        for parameter in group:
            part: int = parameter.partition_numel()
            begin = min(rank * part, parameter.ds_numel)
            end = min(begin + part, parameter.ds_numel)
            pieces.append(Piece(engine.param_names[parameter], begin, end, offset))
            offset += part
        found.append(Partition((flat.numel(),), tuple(pieces)))
    return found


def _of_groups(engine: Any) -> list[Partition]:
    """Return the partitions of ZeRO-1 and 2: each a part of a group's concatenated parameters.

    DeepSpeed's own links from parameters to partitions (``_hp_mapping``, which its universal
    checkpoints go by) ignore the order of ``round_robin_gradients``.
    """
    optimizer, rank = engine.optimizer, dist.get_rank(engine.data_parallel_group)
    flats: list[Tensor] = [
        tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"]
    ]
    own = vars(optimizer)
    if "round_robin_bit16_groups" in own:
        groups, offsets = own["round_robin_bit16_groups"], own["round_robin_bit16_offsets"]
    else:
        groups = own["bf16_groups"]
        offsets = [_offsets(group) for group in groups]
    found: list[Partition] = []
    for flat, group, places in zip(flats, groups, offsets, strict=True):
        first = rank * flat.numel()
        pieces: list[Piece] = []
        for parameter, place in zip(group, places, strict=True):
            begin = max(first - place, 0)
            end = min(first + flat.numel() - place, parameter.numel())
            if begin < end:
                name = engine.param_names[parameter]
                pieces.append(Piece(name, begin, end, place + begin - first))
        found.append(Partition((flat.numel(),), tuple(pieces)))
    return found


def _offsets(group: Sequence[nn.Parameter]) -> list[int]:
    """Return where each parameter begins in the concatenation of all."""
    return list(accumulate((parameter.numel() for parameter in group), initial=0))[:-1]


def _of_parameters(engine: Any) -> list[Partition]:
    """Return the parameters of ZeRO-0, one by one, or one vector of them if it is fused."""
    optimizer = engine.optimizer
    if optimizer is engine.basic_optimizer:
        groups = [group["params"] for group in optimizer.param_groups]
    else:
        groups = optimizer.fp16_groups
    if optimizer is engine.basic_optimizer or "fp32_groups" in vars(optimizer):
        return [_whole(engine, [parameter]) for group in groups for parameter in group]
    return [_whole(engine, group) for group in groups]


def _whole(engine: Any, parameters: Sequence[nn.Parameter]) -> Partition:
    """Return a tensor of one parameter, or a vector of several."""
    pieces = tuple(
        Piece(engine.param_names[parameter], 0, parameter.numel(), offset)
        for parameter, offset in zip(parameters, _offsets(parameters), strict=True)
    )
    if len(parameters) == 1:
        return Partition(tuple(parameters[0].shape), pieces)
    return Partition((sum(parameter.numel() for parameter in parameters),), pieces)
