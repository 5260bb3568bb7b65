"""Files of DeepSpeed checkpoints of a few parameters, as two ranks write them.

The parameters are `VALUES`, in this order: nine and five of them. What ZeRO-1 and 2 cut in halves
is their concatenation, so the cut is inside of the first; ZeRO-3 halves each by itself, and pads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VALUES: Mapping[str, Tensor] = {
    "first": torch.arange(9.0).view(3, 3) + 0.25,
    "second": torch.arange(5.0) - 2.125,
}
SHAPES = [{name: value.shape for name, value in VALUES.items()}]
PADDING = -77.0
"""Stands in the files where no parameter has a value."""


def padded(values: Tensor, size: int) -> Tensor:
    return torch.cat([values.flatten(), torch.full((size - values.numel(),), PADDING)])


def in_halves(values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cut as ZeRO-1 and 2 do: each rank's half of the concatenation."""
    flat = torch.cat([value.flatten() for value in values.values()])
    first, second = padded(flat, 14).chunk(2)
    return first.clone(), second.clone()


def in_sub_groups(values: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Cut as ZeRO-3 does: each rank's halves of all, in sub-groups of four values."""
    halves = [padded(value, 2 * -(-value.numel() // 2)).chunk(2) for value in values.values()]
    of_ranks = [torch.cat([pair[rank] for pair in halves]) for rank in range(2)]
    first, second = ([part.clone() for part in flat.split(4)] for flat in of_ranks)
    return first, second


def model_states(**more: Any) -> dict[str, Any]:
    """Return what every rank's file of the model has, under ZeRO."""
    return {
        "module": {"scale": torch.tensor([3.0, 4.0])},
        "buffer_names": ["scale", "cache"],  # the second is not kept
        "param_shapes": SHAPES,
        "shared_params": {"tied": "first"},
        "global_steps": 12,
        "global_samples": 96,
        "skipped_steps": 2,
        **more,
    }


def write_ranks(
    folder: Path, models: list[dict[str, Any]], optimizers: list[dict[str, Any]]
) -> Path:
    """Write the files of ranks under ZeRO; `optimizers` are the optimizer's part of each."""
    folder.mkdir()
    for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        torch.save(
            {"optimizer_state_dict": {"partition_count": len(models), **optimizer}},
            folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    return folder


def write_whole(folder: Path, states: dict[str, Any]) -> Path:
    """Write the one file of ZeRO-0."""
    folder.mkdir()
    torch.save(states, folder / "mp_rank_00_model_states.pt")
    return folder
