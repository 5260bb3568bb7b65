"""Jacobian-vector products of modules with respect to their own parameters.

A tangent gives the change of a module's output when its parameters move along a direction. Linear
layers, embeddings and normalisations have closed forms; any other module is differentiated twice.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

from megadga.probes.gradients import Direction, Factors
from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from megadga.probes.state import from_states, preserved


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments of a module call.

    Attributes:
        positional: Its positional arguments.
        named: Its keyword arguments.
        random_states: Those that it drew from (see ``randomness``): before the call, since by the
            time its outputs are seen dropout has moved on.
        restart: Sets every other generator back to where the call began: Python's, numpy's, and
            those that modules hold. Only for modules that are called again.
    """

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    random_states: tuple[Tensor, ...]
    restart: Callable[[], None] = lambda: None

    @property
    def input(self) -> Tensor:
        """The one input of a module such as ``nn.Linear``, however it was passed."""
        (argument,) = (*self.positional, *self.named.values())
        return argument


@final
@dataclass(frozen=True, eq=False)
class BackwardCall:
    """What a backward pass brings of one forward call.

    Attributes:
        gradients: With respect to each of the module's outputs that is a floating-point tensor, of
            its shape; None where the loss does not depend on one.
        kept: What ``Tangent.kept`` returned of the call.
        rows: Where the sequences lie in each of these outputs.
    """

    gradients: Sequence[Tensor | None]
    kept: Sequence[Tensor | None]
    rows: Sequence[SequenceRows]

    @property
    def of_one_output(self) -> tuple[Tensor, SequenceRows]:
        """The gradient and the rows of a module with one output."""
        (gradient,), (rows,) = self.gradients, self.rows
        assert gradient is not None
        return gradient, rows


class Tangent(Protocol):
    """The derivative ``dy`` of one module's outputs along a direction of its own parameters."""

    def kept(self, call: Call) -> tuple[Tensor | None, ...]:
        """Return what the derivative of one forward call will need, tensors of any shape.

        Called where no operations are recorded. It goes through autograd's saved tensors, so that
        activation checkpointing can drop it and compute it again.
        """
        ...

    def add_derivatives(self, sums: SequenceSums, backward: BackwardCall) -> None:
        """Add ``<delta_s, dy_s>`` of each sequence.

        Args:
            sums: Of the micro-batch.
            backward: Of one forward call.
        """
        ...


_Hook = WeightNorm | SpectralNorm | BasePruningMethod


@contextmanager
def weights_recomputed(module: nn.Module) -> Generator[None]:
    """Recompute such weights as functions of the parameters; restore the old ones at the end.

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


@final
class LinearTangent:
    """The tangent of ``y = x W^T + b``.

    Args:
        weight: ``W``, shape ``(outputs, inputs)``; or its transpose.
        bias: ``b``, shape ``(outputs,)``, or None.
        direction: May lack a piece for either.
        transposed: Whether ``weight`` has shape ``(inputs, outputs)``.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        direction: Direction,
        *,
        transposed: bool = False,
    ) -> None:
        self._weight = weight if weight in direction else None
        self._bias = bias if bias is not None and bias in direction else None
        self._direction = direction
        self._transposed = transposed
        self._factors = self._of_weight() if self._weight is not None else None

    def kept(self, call: Call) -> tuple[Tensor | None, ...]:
        """Keep the input, or its projection onto the right factor; nothing without a weight."""
        if self._weight is None:
            return ()
        inputs = call.input
        if self._factors is None:
            return (inputs.detach(),)
        return (inputs @ self._factors.right.to(inputs.dtype),)

    def add_derivatives(self, sums: SequenceSums, backward: BackwardCall) -> None:
        """See ``Tangent``."""
        gradient, rows = backward.of_one_output
        bias = None
        if self._bias is not None:
            bias = self._direction.dense(self._bias).to(gradient.dtype)
        if self._weight is not None:
            (inputs,) = backward.kept
            assert inputs is not None
            inputs = inputs.to(gradient.dtype)
            if self._factors is None:
                matrix = self._direction.dense(self._weight).to(gradient.dtype)
                matrix = matrix.T if self._transposed else matrix
                sums.add(gradient, functional.linear(inputs, matrix, bias), rows)
                return
            sums.add(gradient @ self._factors.left.to(gradient.dtype), inputs, rows)
        if bias is not None:
            sums.add(gradient, bias, rows)

    def _of_weight(self) -> Factors | None:
        assert self._weight is not None
        factors = self._direction.factors(self._weight)
        if factors is None or not self._transposed:
            return factors
        return Factors(factors.right, factors.left)


@final
class EmbeddingTangent:
    """The tangent of ``y = W[ids]``: ``dy = V[ids]``, 0 at the row of padding.

    Args:
        module: The table; gradients scaled by frequency are no derivatives and not supported.
        direction: Has a piece for its weight.
    """

    def __init__(self, module: nn.Embedding, direction: Direction) -> None:
        self._weight = module.get_parameter("weight")
        self._padding = module.padding_idx
        self._direction = direction

    def kept(self, call: Call) -> tuple[Tensor | None, ...]:
        """Keep the ids."""
        return (call.input,)

    def add_derivatives(self, sums: SequenceSums, backward: BackwardCall) -> None:
        """See ``Tangent``."""
        (gradient, rows), (ids,) = backward.of_one_output, backward.kept
        assert ids is not None
        factors = self._direction.factors(self._weight)
        if factors is None:
            table = self._direction.dense(self._weight)
        else:
            table = factors.left
            gradient = gradient @ factors.right.to(gradient.dtype)
        change = functional.embedding(ids, table).to(gradient.dtype)
        if self._padding is not None:
            change = torch.where((ids == self._padding).unsqueeze(-1), 0.0, change)
        sums.add(gradient, change, rows)


@final
class NormTangent:
    """The tangent of ``y = normalised(x) * w + b``: the same with the direction's ``w`` and ``b``.

    Args:
        module: Normalises over its last dimensions.
        direction: May lack a piece for the weight or the bias.
    """

    def __init__(self, module: nn.LayerNorm | nn.RMSNorm, direction: Direction) -> None:
        self._module = module
        self._direction = direction

    def kept(self, call: Call) -> tuple[Tensor | None, ...]:
        """Keep the input."""
        return (call.input.detach(),)

    def add_derivatives(self, sums: SequenceSums, backward: BackwardCall) -> None:
        """See ``Tangent``."""
        (gradient, rows), (inputs,) = backward.of_one_output, backward.kept
        assert inputs is not None
        module = self._module
        shape = list(module.normalized_shape)
        weight = self._piece(module.weight, inputs)
        if weight is None:
            weight = torch.zeros(shape, dtype=inputs.dtype, device=inputs.device)
        if isinstance(module, nn.RMSNorm):
            if inputs.device.type == "cpu" and len(shape) == 1 and module.eps is not None:
                sums.add(*_rms_norm_factors(gradient, inputs, weight, module.eps), rows)
                return
            change = functional.rms_norm(inputs, shape, weight, module.eps)
        else:
            bias = self._piece(module.bias, inputs)
            change = functional.layer_norm(inputs, shape, weight, bias, module.eps)
        sums.add(gradient, change.to(gradient.dtype), rows)

    def _piece(self, parameter: nn.Parameter | None, inputs: Tensor) -> Tensor | None:
        if parameter is None or parameter not in self._direction:
            return None
        return self._direction.dense(parameter).to(inputs.dtype)


def _rms_norm_factors(
    gradient: Tensor, inputs: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return two numbers of each token whose product is its ``<delta, normalised * weight>``.

    ``<delta, x * weight>``, and what ``x`` is multiplied by to be normalised. An accelerator has
    one kernel for ``normalised * weight``; on a CPU it is five operations over all features, and
    here they are three.

    Args:
        gradient: ``delta``, shape ``(..., D)``.
        inputs: ``x``, same shape.
        weight: Shape ``(D,)``.
        epsilon: Added to the mean square.
    """
    precise = torch.promote_types(torch.promote_types(gradient.dtype, inputs.dtype), torch.float32)
    inputs = inputs.to(precise)
    with torch.autocast(inputs.device.type, enabled=False):  # which would round the products
        products = (gradient.to(precise) * inputs) @ weight.to(precise)
    norms = cast("Tensor", cast("Any", torch.linalg).vector_norm(inputs, dim=-1))
    return products, norms.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return the floating-point tensors among a module's outputs, in their order."""
    leaves = pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@final
class AnyModuleTangent:
    """The tangent of an arbitrary module, by calling it again.

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

    def kept(self, call: Call) -> tuple[Tensor | None, ...]:
        """Call the module again, on the numbers that it has drawn, and keep how outputs move.

        That is done in the forward pass, not where the derivatives are needed: there a module
        that the module calls may have given its parameters back (ZeRO-3), or be about to be
        differentiated itself. The second call leaves no buffer and no random state moved.
        """
        leaves, form = pytree.tree_flatten((call.positional, dict(call.named)))
        detached = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        positional, named = pytree.tree_unflatten(detached, form)
        with (
            preserved(self._module, restart=call.restart),
            from_states(call.random_states, self._parameters[0].device),
            _saved_as_they_are(),
        ):
            return self._changes(positional, named)

    def add_derivatives(self, sums: SequenceSums, backward: BackwardCall) -> None:
        """See ``Tangent``."""
        parts = zip(backward.gradients, backward.kept, backward.rows, strict=True)
        for gradient, change, rows in parts:
            if gradient is not None and change is not None:
                sums.add(gradient, change, rows)

    def _changes(
        self, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Tensor | None, ...]:
        """Return ``J v`` for each output, None for one that does not depend on the parameters."""
        with (
            _trainable(self._parameters),
            sdpa_kernel(SDPBackend.MATH),
            weights_recomputed(self._module),
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


def _saved_as_they_are() -> saved_tensors_hooks:
    """Keep tensors of a separate graph out of activation checkpointing, which would drop them."""
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


@contextmanager
def _trainable(parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Record operations on these parameters, also where gradients are disabled."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
