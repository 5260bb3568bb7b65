"""Compares what two checkpoints hold, bit by bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def differing(one: Path, other: Path) -> list[str]:
    """Return where the DeepSpeed files of two checkpoints differ; empty: equal bits."""
    names = sorted(path.name for path in one.glob("*.pt"))
    assert names, f"{one}: no files"
    assert names == sorted(path.name for path in other.glob("*.pt"))
    pairs = {name: (_load(one, name), _load(other, name)) for name in names}
    return [place for name, pair in pairs.items() for place in _compare(name, *pair)]


def _load(checkpoint: Path, name: str) -> Any:
    return torch.load(checkpoint / name, map_location="cpu", weights_only=False)


def _compare(place: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, Tensor):
        if not (one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))):
            yield place
    elif isinstance(one, dict):
        for key in one.keys() | other.keys():
            yield from _compare(f"{place}.{key}", one.get(key), other.get(key))
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield place
        for index, (ours, theirs) in enumerate(zip(one, other, strict=False)):
            yield from _compare(f"{place}.{index}", ours, theirs)
    elif isinstance(one, int | float | str | bool | None) and one != other:
        yield place


def _bits(tensor: Tensor) -> Tensor:
    """Compared as they are stored: not a number is equal to itself, and 0.0 is not -0.0."""
    return tensor.flatten().view(torch.uint8) if tensor.numel() else tensor  # none to view
