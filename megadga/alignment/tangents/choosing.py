"""Which tangent a module has. Knows the layers of torch, and a few of others by name."""

from collections.abc import Callable, Mapping

from torch import nn

from megadga.alignment.directions import Direction
from megadga.alignment.tangents.generic import AnyModuleTangent
from megadga.alignment.tangents.linear import EmbeddingTangent, LinearTangent
from megadga.alignment.tangents.norms import NormTangent
from megadga.alignment.tangents.tangent import Tangent


def _linear(module: nn.Module, direction: Direction) -> Tangent:
    assert isinstance(module, nn.Linear)
    return LinearTangent(*_weight_and_bias(module), direction)


def _embedding(module: nn.Module, direction: Direction) -> Tangent:
    assert isinstance(module, nn.Embedding)
    if module.scale_grad_by_freq or module.max_norm is not None:  # changes more than it looks up
        return AnyModuleTangent(module, own_parameters(module), direction)
    return EmbeddingTangent(module, direction)


def _norm(module: nn.Module, direction: Direction) -> Tangent:
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
    return NormTangent(module, direction)


def _conv1d(module: nn.Module, direction: Direction) -> Tangent:
    """GPT-2's projection in Hugging Face's models: a linear layer with its matrix transposed."""
    return LinearTangent(*_weight_and_bias(module), direction, transposed=True)


def _weight_and_bias(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    parameters = dict(module.named_parameters(recurse=False))
    return parameters["weight"], parameters.get("bias")


# By the exact class: a subclass may compute something else.
_LAYERS: Mapping[str, Callable[[nn.Module, Direction], Tangent]] = {
    "torch.nn.modules.linear.Linear": _linear,
    "torch.nn.modules.sparse.Embedding": _embedding,
    "torch.nn.modules.normalization.LayerNorm": _norm,
    "torch.nn.modules.normalization.RMSNorm": _norm,
    "megadga.model.layers.Linear": _linear,
    "megadga.model.layers.Embedding": _embedding,
    "transformers.pytorch_utils.Conv1D": _conv1d,
}


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module uses by itself, whatever its children do.

    ``nn.MultiheadAttention`` never calls its output projection, but uses its weights.
    """
    return list(module.parameters(recurse=isinstance(module, nn.MultiheadAttention)))


def choose_tangent(module: nn.Module, direction: Direction) -> Tangent | None:
    """Return the tangent of a module, None if nothing of its own moves along the direction."""
    moved = [parameter for parameter in own_parameters(module) if parameter in direction]
    if not moved:
        return None
    kind = type(module)
    layer = _LAYERS.get(f"{kind.__module__}.{kind.__qualname__}")
    return layer(module, direction) if layer else AnyModuleTangent(module, moved, direction)
