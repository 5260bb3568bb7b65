"""Reads the optimizer's states from a DeepSpeed checkpoint, by parameter.

A state such as AdamW's ``exp_avg`` has one value for each weight, and lies in the files as the
float32 weights do (`weights`), whatever the ZeRO stage and the number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from deepspeed.checkpoint.constants import (
    BASE_OPTIMIZER_STATE,
    OPTIMIZER_STATE_DICT,
    PARAM_SHAPES,
)
from torch import Tensor

from megadga.train.weights import (
    StoredTensor,
    Weights,
    check_ranks,
    concatenated,
    cut,
    files_of_ranks,
    interleaved,
    open_weights,
    parameter_names,
    readable,
)

Scalar = Tensor | int | float
"""A state that is one number, as a counter of steps: a tensor without axes, or a plain number."""


@final
@dataclass(frozen=True, eq=False)
class TrainingStates:
    """All that training goes on from, whatever it is divided among.

    Attributes:
        weights: Weights and persistent buffers by name; float32 where the optimizer has such.
        states: The optimizer's states of one value for each weight, by the state's name and then
            the parameter's; tied parameters have the first of their names.
        scalars: The optimizer's states of one number for all parameters, by name.
        global_steps: Optimizer steps completed, skipped ones among them.
        global_samples: Sequences trained on.
        skipped_steps: Optimizer steps that DeepSpeed has skipped.
        client_state: What was saved beside the engine's own, on rank 0.
    """

    weights: Weights
    states: Mapping[str, Weights]
    scalars: Mapping[str, Scalar]
    global_steps: int
    global_samples: int
    skipped_steps: int
    client_state: Mapping[str, Any]


@final
@dataclass(eq=False)
class _Found:
    """States and numbers, while they are read."""

    states: dict[str, dict[str, StoredTensor]] = field(
        default_factory=dict[str, dict[str, StoredTensor]]
    )
    scalars: dict[str, Scalar] = field(default_factory=dict[str, Scalar])


def open_states(checkpoint: Path, zero_stage: int) -> TrainingStates:
    """Return all that training goes on from, in memory-mapped files.

    Args:
        checkpoint: The checkpoint's folder, whose files are intact (``find_damage``).
        zero_stage: ZeRO stage of the run that wrote it, from 0 to 3.

    Raises:
        ResumeError: If a file is missing, is not DeepSpeed's or has more than tensors and plain
            values in it; or if a state of the optimizer is no value for each weight.
    """
    weights = open_weights(checkpoint, zero_stage)
    with readable(checkpoint):
        saved = files_of_ranks(checkpoint, "*_model_states.pt")[0]
        if zero_stage == 0:
            found = _whole(saved)
        else:
            optimizers = [
                states[OPTIMIZER_STATE_DICT]
                for states in files_of_ranks(checkpoint, "*_optim_states.pt")
            ]
            check_ranks(optimizers)
            divided = _interleaved if zero_stage == 3 else _concatenated
            found = divided(saved[PARAM_SHAPES], optimizers)
        return TrainingStates(
            weights=weights,
            states=found.states,
            scalars=found.scalars,
            global_steps=saved["global_steps"],
            global_samples=saved["global_samples"],
            skipped_steps=saved["skipped_steps"],
            client_state=saved,
        )


def _whole(saved: Mapping[str, Any]) -> _Found:
    """Read the states of ZeRO-0, which every rank has as a whole."""
    optimizer: Mapping[str, Any] = saved["optimizer"]
    base = _base(optimizer.get(OPTIMIZER_STATE_DICT, optimizer))
    names = parameter_names(saved)
    shapes = {name: saved["module"][name].shape for name in names}
    found = _Found(scalars=_of_groups(base))
    if "fp32_groups_flat" in optimizer:  # a fused optimizer has one vector of all parameters
        flat = base["state"].get(0, {})
        for key in _kinds(flat, sum(shape.numel() for shape in shapes.values()), found):
            found.states[key] = dict(zip(names, cut([*shapes.values()], [flat[key]]), strict=True))
        return found
    for index, name in enumerate(names):
        # A parameter that no loss has depended on has no states yet.
        entry = base["state"].get(index, {})
        for key in _kinds(entry, shapes[name].numel(), found):
            found.states.setdefault(key, {})[name] = StoredTensor(
                tuple(shapes[name]), (entry[key],)
            )
    return found


def _concatenated(
    groups: Sequence[Mapping[str, Sequence[int]]], optimizers: Sequence[Mapping[str, Any]]
) -> _Found:
    """Read the states of ZeRO-1 and 2."""
    base = _base(optimizers[0][BASE_OPTIMIZER_STATE])
    found = _Found(scalars=_of_groups(base))
    for key in _keys(base, found):

        def flat(states: Mapping[str, Any], number: int, key: str = key) -> Tensor:
            return states[BASE_OPTIMIZER_STATE]["state"][number][key]

        found.states[key] = concatenated(groups, optimizers, flat)
    return found


def _interleaved(
    groups: Sequence[Mapping[str, Sequence[int]]], optimizers: Sequence[Mapping[str, Any]]
) -> _Found:
    """Read the states of ZeRO-3."""
    base = _base(optimizers[0][OPTIMIZER_STATE_DICT])
    found = _Found(scalars=_of_groups(base))
    for key in _keys(base, found):
        flats = [
            [entry[key] for _, entry in sorted(states[OPTIMIZER_STATE_DICT]["state"].items())]
            for states in optimizers
        ]
        found.states[key] = interleaved(groups, flats)
    return found


def _base(saved: Any) -> Mapping[str, Any]:
    """Return the state of torch's optimizer inside DeepSpeed's, whose states are whole vectors."""
    if not isinstance(saved, Mapping):
        raise TypeError("states of zero_optimization.elastic_checkpoint")
    return saved


def _of_groups(base: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return what fused optimizers count in their groups."""
    return {
        key: group[key] for group in base["param_groups"][:1] for key in group if key == "step"
    }


def _keys(base: Mapping[str, Any], found: _Found) -> list[str]:
    """Return the names of the states of one value for each weight; note the other ones."""
    first: Mapping[str, Any] = base["state"].get(0, {})
    numel = max((v.numel() for v in first.values() if isinstance(v, Tensor)), default=0)
    return _kinds(first, numel, found)


def _kinds(entry: Mapping[str, Any], numel: int, found: _Found) -> list[str]:
    """Return the names of the states of ``numel`` values; note those of one number."""
    kept: list[str] = []
    for key, value in entry.items():
        if key != "step" and isinstance(value, Tensor) and value.numel() == numel:
            kept.append(key)
        elif isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            found.scalars[key] = value
        elif value is not None:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"a state {key} of the optimizer, {shape}, beside {numel} weights")
    return kept


def as_number(scalar: Scalar) -> float:
    """Return a state of one number."""
    return float(scalar)


def as_tensor(scalar: Scalar) -> Tensor:
    """Return a state of one number as torch's optimizers keep it."""
    return scalar.clone() if isinstance(scalar, Tensor) else torch.tensor(float(scalar))
