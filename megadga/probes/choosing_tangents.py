"""Which modules have parameters of their own, and which tangent each of them has."""

from collections.abc import Callable, Mapping

from torch import nn

from megadga.probes.gradients import Direction
from megadga.probes.tangents import (
    AnyModuleTangent,
    EmbeddingTangent,
    LinearTangent,
    NormTangent,
    Tangent,
)


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
    parameters = _registered(module)
    return parameters["weight"], parameters.get("bias")


def _registered(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return a module's own parameters by name; torch's own functions walk trees for that."""
    registered: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    return {name: each for name, each in registered.items() if each is not None}


# By the exact class: a subclass may compute something else.
_LAYERS: Mapping[str, Callable[[nn.Module, Direction], Tangent]] = {
    "torch.nn.modules.linear.Linear": _linear,
    "torch.nn.modules.sparse.Embedding": _embedding,
    "torch.nn.modules.normalization.LayerNorm": _norm,
    "torch.nn.modules.normalization.RMSNorm": _norm,
    "megadga.model.llama.Linear": _linear,
    "megadga.model.llama.Embedding": _embedding,
    "megadga.model.llama.RMSNorm": _norm,
    "transformers.pytorch_utils.Conv1D": _conv1d,
}


def is_callable_module(module: nn.Module) -> bool:
    """Tell whether a module has a forward function; ``nn.ParameterDict`` and such have none."""
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module uses by itself, whatever its children do.

    Among them are those of children that cannot be called and hold parameters for it, such as
    ``nn.ParameterDict``. ``nn.MultiheadAttention`` never calls its output projection, but uses its
    weights.
    """
    if isinstance(module, nn.MultiheadAttention):
        return list(module.parameters())
    own = list(dict.fromkeys(_registered(module).values()))
    for child in module.children():
        if not is_callable_module(child):
            own += own_parameters(child)
    return own


def maps_rows(module: nn.Module) -> bool:
    """Tell whether a module has one input and makes each row of its output of the same row of it.

    So it does if it is known by its class, and is what its class made it: ``weight_norm`` of
    ``torch.nn.utils`` and others replace a layer's parameters or its forward function.
    """
    kind = type(module)
    return (
        f"{kind.__module__}.{kind.__qualname__}" in _LAYERS
        and "forward" not in vars(module)
        and {"weight"} <= _registered(module).keys() <= {"weight", "bias"}
    )


def choose_tangent(module: nn.Module, direction: Direction) -> Tangent | None:
    """Return the tangent of a module, None if nothing of its own moves along the direction."""
    if not is_callable_module(module):
        return None
    moved = [parameter for parameter in own_parameters(module) if parameter in direction]
    if not moved:
        return None
    kind = type(module)
    if maps_rows(module):
        return _LAYERS[f"{kind.__module__}.{kind.__qualname__}"](module, direction)
    return AnyModuleTangent(module, moved, direction)
