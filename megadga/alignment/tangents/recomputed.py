"""Weights that a module computes from other parameters before each call.

``weight_norm`` and ``spectral_norm`` of ``torch.nn.utils`` and its pruning put an attribute in the
place of a parameter, which a forward pre-hook computes. Whoever calls the forward function by
itself has to compute it as well.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_Hook = WeightNorm | SpectralNorm | BasePruningMethod


def norm_vectors(module: nn.Module) -> tuple[Tensor, ...]:
    """Return copies of what a call's power iterations ended at; none without ``spectral_norm``."""
    return tuple(
        module.get_buffer(f"{hook.name}_{side}").clone()
        for hook in _hooks(module)
        if isinstance(hook, SpectralNorm)
        for side in ("u", "v")
    )


@contextmanager
def weights_recomputed(module: nn.Module, vectors: tuple[Tensor, ...]) -> Generator[None]:
    """Compute such weights anew, as functions of the parameters; put the old ones back after.

    Args:
        module: Is left as it was.
        vectors: Of `norm_vectors`, at the time of the call.
    """
    remaining = iter(vectors)
    before = {name: getattr(module, name) for name in map(_name, _hooks(module))}
    try:
        for hook in _hooks(module):
            setattr(module, _name(hook), _weight(hook, module, remaining))
        yield
    finally:
        for name, weight in before.items():
            setattr(module, name, weight)


def _hooks(module: nn.Module) -> list[_Hook]:
    # torch has no public name for them, nor for what pruning calls its tensor
    hooks = cast("dict[int, object]", vars(module)["_forward_pre_hooks"]).values()
    return [hook for hook in hooks if isinstance(hook, _Hook)]


def _name(hook: _Hook) -> str:
    if isinstance(hook, BasePruningMethod):
        return vars(hook)["_tensor_name"]
    return hook.name


def _weight(hook: _Hook, module: nn.Module, vectors: Iterator[Tensor]) -> Tensor:
    match hook:
        case WeightNorm():
            return hook.compute_weight(module)
        case BasePruningMethod():
            return hook.apply_mask(module)
        case SpectralNorm():
            # As its own function does, for vectors that have moved on by now.
            weight = module.get_parameter(f"{hook.name}_orig")
            matrix = hook.reshape_weight_to_matrix(weight)
            left, right = next(vectors), next(vectors)
            return weight / torch.dot(left, torch.mv(matrix, right))
