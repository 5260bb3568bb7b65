"""Hooks that let a backward pass tell each sequence's derivative along a direction.

A forward hook puts an identity behind every module that owns parameters. Its backward pass sees
the gradient ``delta`` of the module's output, and returns it as it is; and, as the gradient of a
number ``epsilon_s`` of each sequence, ``<delta_s, dy_s>`` (see ``tangents``). Added up over the
modules that is the derivative of the loss in the length of a step along the direction, a sequence
at a time. Knows no engine and no rank.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from megadga.alignment.directions import Direction, OnePiece
from megadga.alignment.preserving import random_states_of
from megadga.alignment.tangents.choosing import choose_tangent, own_parameters
from megadga.alignment.tangents.generic import AnyModuleTangent
from megadga.alignment.tangents.randomness import random_states
from megadga.alignment.tangents.tangent import Call, Tangent, Trace
from megadga.errors import UnsupportedEngineError

Hold = Callable[[nn.Module], AbstractContextManager[Any]]
"""From a module to a context in which its parameters, once gathered, stay so (ZeRO-3)."""


@final
class Taps:
    """The per-sequence numbers of the micro-batch that is passing through a tapped module.

    Args:
        hold: Keeps the parameters of a module, and of those that it calls, where they are while
            the module is called again and differentiated.
    """

    def __init__(self, hold: Hold) -> None:
        self._epsilon: Tensor | None = None
        self._hold = hold

    def begin(self, num_sequences: int, device: torch.device) -> Tensor:
        """Start a micro-batch.

        Returns:
            Zeros whose ``.grad`` will hold the derivatives of whatever loss is differentiated,
            float64, shape ``(num_sequences,)``.
        """
        self._epsilon = torch.zeros(
            num_sequences, dtype=torch.float64, device=device, requires_grad=True
        )
        return self._epsilon

    def random_states(self) -> tuple[Tensor, ...]:
        """Return what a module that is about to be called draws from; nothing if not tapped."""
        if self._epsilon is None or not torch.is_grad_enabled():
            return ()
        return random_states(self._epsilon.device)

    @contextmanager
    def _calling_again(self, module: nn.Module) -> Generator[None]:
        """Let a tangent call a module, and those that it calls, without being tapped."""
        calls_others = next(module.children(), None) is not None
        with self.paused(), self._hold(module) if calls_others else nullcontext():
            yield

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let modules be called as if they were not tapped."""
        epsilon, self._epsilon = self._epsilon, None
        try:
            yield
        finally:
            self._epsilon = epsilon

    def tap(self, name: str, module: nn.Module, tangent: Tangent, call: Call, outputs: Any) -> Any:
        """Return a module's outputs with the identity behind each that is a tensor."""
        if self._epsilon is None or not torch.is_grad_enabled():
            return outputs
        num_sequences = self._epsilon.numel()
        leaves, form = pytree.tree_flatten(outputs)
        places = [
            place
            for place, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        batched = [_with_batch_axis(leaves[p], call, num_sequences, name) for p in places]
        with self._calling_again(module):
            trace = tangent.trace(call, num_sequences)
        identical = _tap(self._epsilon, trace, len(batched), *batched, *trace.kept)
        for place, tensor in zip(places, identical, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, form)


@contextmanager
def tapped(module: nn.Module, direction: Direction, hold: Hold = nullcontext) -> Generator[Taps]:
    """Tap every module that owns a parameter of the direction; take the hooks off at the end.

    Args:
        module: Is called while its hooks are on.
        direction: What derivatives are taken along.
        hold: See ``Taps``.
    """
    taps = Taps(hold)
    with ExitStack() as hooks:
        for name, child in _tappable(module):
            if (tangent := choose_tangent(child, direction)) is not None:
                _ModuleTap(taps, name, tangent).hook_onto(child, hooks)
        yield taps


@contextmanager
def tapped_apart(
    module: nn.Module,
    direction: Direction,
    parameters: Sequence[nn.Parameter],
    hold: Hold = nullcontext,
) -> Generator[list[Taps]]:
    """Tap along each parameter's piece of a direction by itself; see ``tapped``.

    Yields:
        Those of each parameter. A micro-batch begins with all of them.
    """

    @contextmanager
    def hold_and_pause(child: nn.Module) -> Generator[None]:
        with ExitStack() as stack:
            for each in taps.values():
                stack.enter_context(each.paused())
            stack.enter_context(hold(child))
            yield

    taps = {parameter: Taps(hold_and_pause) for parameter in parameters}
    with ExitStack() as hooks:
        for name, child in _tappable(module):
            for parameter in own_parameters(child):
                piece = OnePiece(direction, parameter)
                if parameter in taps and (tangent := choose_tangent(child, piece)) is not None:
                    _ModuleTap(taps[parameter], name, tangent).hook_onto(child, hooks)
        yield list(taps.values())


def _tappable(module: nn.Module, name: str = "") -> Generator[tuple[str, nn.Module]]:
    """Yield a module and its descendants, each once, but none inside one that uses them itself."""
    seen: set[nn.Module] = set()

    def walk(child: nn.Module, name: str) -> Generator[tuple[str, nn.Module]]:
        if child in seen:
            return
        seen.add(child)
        yield name, child
        if isinstance(child, nn.MultiheadAttention):
            return
        for key, grandchild in child.named_children():
            yield from walk(grandchild, f"{name}.{key}" if name else key)

    yield from walk(module, name)


def _nothing() -> None:
    """Do nothing."""


@final
class _ModuleTap:
    """What happens before and after each call of one module."""

    def __init__(self, taps: Taps, name: str, tangent: Tangent) -> None:
        self._taps = taps
        self._name = name
        self._tangent = tangent
        self._states: tuple[Tensor, ...] = ()
        self._restart: Callable[[], None] = _nothing

    def hook_onto(self, module: nn.Module, hooks: ExitStack) -> None:
        """Hook onto the module, and off when the stack closes."""
        before = module.register_forward_pre_hook(self._before)
        hooks.callback(before.remove)
        # Before other hooks, so that ZeRO-3's gather what the module needs before the identity's
        # backward pass, and release it after.
        after = module.register_forward_hook(self._after, with_kwargs=True, prepend=True)
        hooks.callback(after.remove)

    def _before(self, module: nn.Module, _: tuple[Any, ...]) -> None:
        self._states = self._taps.random_states()
        if self._states and isinstance(self._tangent, AnyModuleTangent):
            self._restart = random_states_of(module)

    def _after(
        self,
        module: nn.Module,
        positional: tuple[Any, ...],
        named: Mapping[str, Any],
        outputs: Any,
    ) -> Any:
        call = Call(positional, named, self._states, self._restart)
        return self._taps.tap(self._name, module, self._tangent, call, outputs)


def _with_batch_axis(output: Tensor, call: Call, num_sequences: int, name: str) -> Tensor:
    """Return an output with one row a sequence; what all of them share is repeated.

    Position embeddings are looked up once for all sequences, by ids of shape ``(S,)`` or
    ``(1, S)``.
    """
    if num_sequences == 1:
        return output
    arguments = pytree.tree_leaves((call.positional, dict(call.named)))
    ids = [argument for argument in arguments if isinstance(argument, Tensor)]
    if len(ids) == 1 and ids[0].ndim == 1 and not ids[0].is_floating_point():
        return output.unsqueeze(0).expand(num_sequences, *output.shape)
    if output.ndim and output.shape[0] == 1:
        return output.expand(num_sequences, *output.shape[1:])
    if output.ndim == 0 or output.shape[0] != num_sequences:
        raise UnsupportedEngineError(
            f"module {name!r}: expected an output with the {num_sequences} sequences of the "
            f"micro-batch along its first axis, found shape {tuple(output.shape)}; "
            "a sharded probe asks nothing of modules"
        )
    return output


class _Tap(torch.autograd.Function):
    """The identity on a module's outputs, differentiable in ``epsilon`` as well."""

    @staticmethod
    def forward(
        ctx: Any,
        epsilon: Tensor,  # noqa: ARG004  (only its gradient is of interest)
        trace: Trace,
        num_outputs: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Pass the outputs on; keep the rest of the tensors."""
        ctx.set_materialize_grads(False)
        ctx.derivatives = trace.derivatives
        ctx.num_kept = len(tensors) - num_outputs
        ctx.save_for_backward(*tensors[num_outputs:])
        # Not views: what follows may write into its input.
        return tuple(output.detach() for output in tensors[:num_outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Pass the gradients on, and add what they say of each sequence."""
        derivatives = None
        if any(gradient is not None for gradient in gradients):
            derivatives = ctx.derivatives(gradients, ctx.saved_tensors)
        return (derivatives, None, None, *gradients, *(None,) * ctx.num_kept)


_tap = cast("Callable[..., tuple[Tensor, ...]]", _Tap.apply)
