"""The tangent of any module, by calling it again and differentiating twice. Knows no layer.

The vector-Jacobian product ``g(u) = J^T u`` of a module's parameters is linear in ``u``, so the
derivative of ``<g(u), v>`` with respect to ``u`` is the Jacobian-vector product ``J v``. This asks
of a module only that it can be differentiated twice, and costs about three forward passes of it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from megadga.alignment.directions import Direction
from megadga.alignment.tangents.randomness import from_states
from megadga.alignment.tangents.recomputed import norm_vectors, weights_recomputed
from megadga.alignment.tangents.tangent import Call, SequenceRows, Trace, sequence_dots


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors among a module's outputs, in their order."""
    leaves = pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@final
class AnyModuleTangent:
    """The tangent of a module of which nothing is known but its call.

    Args:
        module: Its outputs are tensors, or nested lists, tuples and dicts of them.
        parameters: Those that it uses by itself, not through a module of their own.
        direction: Has a piece for each.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[nn.Parameter], direction: Direction
    ) -> None:
        self._module = module
        self._parameters = tuple(parameters)
        self._direction = direction

    def trace(self, call: Call, rows: Sequence[SequenceRows]) -> Trace:
        """Keep every tensor among the arguments, and the states that dropout started from."""
        leaves, form = pytree.tree_flatten((call.positional, dict(call.named)))
        tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        device = self._parameters[0].device
        num_states = len(call.random_states)
        vectors = norm_vectors(self._module)
        autocast = _autocast_as_now(device)

        def derivatives(gradients: Sequence[Tensor | None], kept: tuple[Tensor, ...]) -> Tensor:
            filled = list(others)
            states, arguments = kept[:num_states], kept[num_states:]
            for place, tensor in zip(places, arguments, strict=False):
                filled[place] = tensor
            positional, named = pytree.tree_unflatten(filled, form)
            with from_states(states, device), autocast:
                changes = self._changes(positional, named, arguments[len(places) :])
            total = torch.zeros(rows[0].num_sequences, dtype=torch.float64, device=device)
            for gradient, change, of_output in zip(gradients, changes, rows, strict=True):
                if gradient is not None and change is not None:
                    total += sequence_dots(gradient, change, of_output)
            return total

        return Trace((*call.random_states, *tensors, *vectors), derivatives)

    def _changes(
        self, positional: tuple[Any, ...], named: dict[str, Any], vectors: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Return ``J v`` for each output, None for one that does not depend on the parameters."""
        with (
            _trainable(self._parameters),
            sdpa_kernel(SDPBackend.MATH),
            weights_recomputed(self._module, vectors),
        ):
            # By its forward alone: the hooks of the call have run already.
            outputs = output_tensors(self._module.forward(*positional, **named))
            # Now, while the parameters are trainable: an output may be one of them.
            places = [place for place, output in enumerate(outputs) if output.requires_grad]
            if not places:  # this call has used none of them
                return (None,) * len(outputs)
            moving = [outputs[place] for place in places]
            cotangents = [torch.zeros_like(output, requires_grad=True) for output in moving]
            grad: Any = torch.autograd.grad  # annotated as if no gradient were ever None
            products: Sequence[Tensor | None] = grad(
                moving, self._parameters, cotangents, create_graph=True, allow_unused=True
            )
            along = [
                (product * self._direction.dense(parameter)).sum()
                for parameter, product in zip(self._parameters, products, strict=True)
                if product is not None
            ]
            if not along:  # what moves the outputs is none of them
                return (None,) * len(outputs)
            found: Sequence[Tensor | None] = grad(
                torch.stack(along).sum(), cotangents, allow_unused=True
            )
        changes = dict(zip(places, found, strict=True))
        return tuple(changes.get(place) for place in range(len(outputs)))


@contextmanager
def _trainable(parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Record operations on these parameters, also where gradients are switched off."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def _autocast_as_now(device: torch.device) -> torch.autocast:
    return torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
    )
