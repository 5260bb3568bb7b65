"""Weights that a module computes from other parameters before each call.

``weight_norm`` and ``spectral_norm`` of ``torch.nn.utils`` and its pruning put an attribute in the
place of a parameter, which a forward pre-hook computes. Whoever calls the forward function by
itself has to compute it as well.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_Hook = WeightNorm | SpectralNorm | BasePruningMethod


@contextmanager
def weights_recomputed(module: nn.Module) -> Generator[None]:
    """Compute such weights anew, as functions of the parameters; put the old ones back after.

    They are those of the last call: ``spectral_norm`` has moved on with the next one.
    """
    before = {name: getattr(module, name) for name in map(_name, _hooks(module))}
    try:
        for hook in _hooks(module):
            setattr(module, _name(hook), _weight(hook, module))
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


def _weight(hook: _Hook, module: nn.Module) -> Tensor:
    match hook:
        case WeightNorm():
            return hook.compute_weight(module)
        case BasePruningMethod():
            return hook.apply_mask(module)
        case SpectralNorm():
            # As its own function does, but for the steps of its power iteration.
            weight = module.get_parameter(f"{hook.name}_orig")
            matrix = hook.reshape_weight_to_matrix(weight)
            left, right = (module.get_buffer(f"{hook.name}_{side}") for side in ("u", "v"))
            return weight / torch.dot(left, torch.mv(matrix, right))
