"""Forward hooks with which a backward pass computes each sequence's derivative."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from megadga.probes.choosing_tangents import (
    choose_tangent,
    is_callable_module,
    maps_rows,
    own_parameters,
)
from megadga.probes.gradients import Direction, OnePiece
from megadga.probes.layouts import Layout, Layouts
from megadga.probes.routing import SequenceTracker
from megadga.probes.sequence_rows import SequenceRows, SequenceSums
from megadga.probes.state import random_states, random_states_of
from megadga.probes.tangents import AnyModuleTangent, BackwardCall, Call, Tangent

Hold = Callable[[nn.Module], AbstractContextManager[Any]]
"""From a module to a context in which its parameters, once gathered, stay so (ZeRO-3)."""


@final
class SequenceHooks:
    """State of the hooks on a module during a micro-batch.

    Args:
        layouts: Where the sequences lie in the outputs of modules; not asked for micro-batches of
            one sequence.
        following: Follows the sequences where layouts are not known; None: they are not followed.
        hold: Keeps the parameters of a module, and of those that it calls, where they are while
            the module is called again and differentiated.

    Attributes:
        unknown: Modules in whose outputs the sequences could not be told from one another, and the
            shape of one. Numbers are not those of single sequences then, but add up to their sum.
    """

    def __init__(self, layouts: Layouts, following: SequenceTracker | None, hold: Hold) -> None:
        self._micro_batch: _MicroBatch | None = None
        self._layouts = layouts
        self._following = following
        self._hold = hold
        self._laid_out: dict[tuple[str, int, torch.Size, int], Layout | None] = {}
        self.unknown: dict[str, tuple[int, ...]] = {}

    def begin(
        self, num_sequences: int, device: torch.device, tokens: Tensor | None = None
    ) -> SequenceSums:
        """Start a micro-batch.

        Args:
            num_sequences: Of the micro-batch.
            device: Of the model.
            tokens: What the model is shown, shape ``(num_sequences, S + 1)``, if it is known; only
                needed where sequences are followed.

        Returns:
            What will hold the derivatives of whatever loss is differentiated.
        """
        if self._following is not None:
            self._following.begin(tokens)
        anchor = torch.zeros((), device=device, requires_grad=True)
        self._micro_batch = _MicroBatch(num_sequences, SequenceSums(), anchor)
        return self._micro_batch.sums

    def random_states(self) -> tuple[Tensor, ...]:
        """Return the random states before a module is called; nothing if hooks are paused."""
        if self._micro_batch is None or not torch.is_grad_enabled():
            return ()
        return random_states(self._micro_batch.anchor.device)

    @contextmanager
    def _calling_again(self, module: nn.Module) -> Generator[None]:
        """Pause the hooks while a tangent calls a module and its children."""
        calls_others = next(module.children(), None) is not None
        with self.paused(), self._hold(module) if calls_others else nullcontext():
            yield

    @contextmanager
    def paused(self) -> Generator[None]:
        """Pause the hooks."""
        before, self._micro_batch = self._micro_batch, None
        try:
            yield
        finally:
            self._micro_batch = before

    def measure(
        self, module: nn.Module, name: str, tangent: Tangent, call: Call, outputs: Any
    ) -> Any:
        """Return a module's outputs, each tensor passed through the measuring identity."""
        micro_batch = self._micro_batch
        if micro_batch is None or not torch.is_grad_enabled():
            return outputs
        if isinstance(outputs, Tensor):  # as of nearly all: taking trees apart takes its time
            form = None
            leaves: list[Any] = [outputs]
        else:
            leaves, form = pytree.tree_flatten(outputs)
        places: list[int] = []
        tensors: list[Tensor] = []
        rows: list[SequenceRows] = []
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                tensor, its_rows = self._lay_out(
                    module, name, len(places), call, leaf, micro_batch.num_sequences
                )
                places.append(place)
                tensors.append(tensor)
                rows.append(its_rows)
        if not places:
            return outputs
        calls_again = isinstance(tangent, AnyModuleTangent)
        with self._calling_again(module) if calls_again else nullcontext():
            identical = _measuring_identity(
                micro_batch.anchor, tangent, call, rows, micro_batch.sums, *tensors
            )
        for place, tensor, its_rows in zip(places, identical, rows, strict=True):
            leaves[place] = tensor
            if self._following is not None and name not in self.unknown:
                self._following.follow(tensor, its_rows)
        return leaves[0] if form is None else pytree.tree_unflatten(leaves, form)

    def _lay_out(
        self,
        module: nn.Module,
        name: str,
        index: int,
        call: Call,
        output: Tensor,
        num_sequences: int,
    ) -> tuple[Tensor, SequenceRows]:
        """Return an output with one row per sequence, and the sequences' positions in it."""
        if num_sequences == 1:
            return output, SequenceRows(1)
        key = (name, index, output.shape, num_sequences)
        if key not in self._laid_out:
            self._laid_out[key] = self._layouts.find(name, index, output.shape, num_sequences)
        layout = self._laid_out[key]
        if layout is not None:
            return layout.apply(output, num_sequences)
        if self._following is not None:
            followed = call.input if maps_rows(module) else output
            rows = self._following.rows(followed, output.ndim, num_sequences)
            if rows is not None:
                return output, rows
        self.unknown[name] = tuple(output.shape)
        # Not left out: where a direction is gathered, every rank asks for the same pieces.
        first = torch.zeros((), dtype=torch.int64, device=output.device)
        return output, SequenceRows(num_sequences, numbers=first)


@dataclass(frozen=True, eq=False)
class _MicroBatch:
    """What the hooks add up during a micro-batch.

    Attributes:
        num_sequences: Of the micro-batch.
        sums: Of their derivatives.
        anchor: Requires a gradient, and so lets a backward pass come by every module, whether
            parameters need gradients or not; it gets none.
    """

    num_sequences: int
    sums: SequenceSums
    anchor: Tensor


@contextmanager
def hooked(
    module: nn.Module,
    direction: Direction,
    layouts: Layouts,
    *,
    hold: Hold = nullcontext,
    following: bool = False,
) -> Generator[SequenceHooks]:
    """Hook every module that owns a parameter of the direction; remove the hooks at the end.

    Args:
        module: The whole model.
        direction: What derivatives are taken along.
        layouts: Where sequences lie in the outputs of its modules.
        hold: See ``SequenceHooks``.
        following: Whether they are followed where that is not known, function by function of
            torch; it takes some time of each.
    """
    follows = SequenceTracker() if following else None
    sequence_hooks = SequenceHooks(layouts, follows, hold)
    with ExitStack() as hooks:
        if follows is not None:
            hooks.enter_context(follows)
        for name, child in modules_with_parameters(module):
            if (tangent := choose_tangent(child, direction)) is not None:
                _ModuleHook(sequence_hooks, name, tangent).hook_onto(child, hooks)
        yield sequence_hooks


@contextmanager
def hooked_per_parameter(
    module: nn.Module,
    direction: Direction,
    parameters: Sequence[nn.Parameter],
    layouts: Layouts,
    *,
    hold: Hold = nullcontext,
    following: bool = False,
) -> Generator[list[SequenceHooks]]:
    """Hook each parameter's piece of a direction separately; see ``hooked``.

    Yields:
        Those of each parameter. A micro-batch begins with all of them.
    """

    @contextmanager
    def hold_and_pause(child: nn.Module) -> Generator[None]:
        with ExitStack() as stack:
            for each in sequence_hooks.values():
                stack.enter_context(each.paused())
            stack.enter_context(hold(child))
            yield

    follows = SequenceTracker() if following else None
    sequence_hooks = {
        parameter: SequenceHooks(layouts, follows, hold_and_pause) for parameter in parameters
    }
    with ExitStack() as hooks:
        if follows is not None:
            hooks.enter_context(follows)
        for name, child in modules_with_parameters(module):
            for parameter in own_parameters(child):
                piece = OnePiece(direction, parameter)
                if (
                    parameter in sequence_hooks
                    and (tangent := choose_tangent(child, piece)) is not None
                ):
                    _ModuleHook(sequence_hooks[parameter], name, tangent).hook_onto(child, hooks)
        yield list(sequence_hooks.values())


def modules_with_parameters(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all modules, each once, that use parameters of their own when called.

    None inside one that uses its children's parameters itself.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()

    def walk(child: nn.Module, name: str) -> None:
        if child in seen:
            return
        seen.add(child)
        if is_callable_module(child) and own_parameters(child):
            found.append((name, child))
        if isinstance(child, nn.MultiheadAttention):
            return
        for key, grandchild in child.named_children():
            walk(grandchild, f"{name}.{key}" if name else key)

    walk(module, "")
    return found


def _nothing() -> None:
    """Do nothing."""


@final
class _ModuleHook:
    """Forward hooks of one module."""

    def __init__(self, sequence_hooks: SequenceHooks, name: str, tangent: Tangent) -> None:
        self._hooks = sequence_hooks
        self._name = name
        self._tangent = tangent
        self._states: tuple[Tensor, ...] = ()
        self._restart: Callable[[], None] = _nothing

    def hook_onto(self, module: nn.Module, hooks: ExitStack) -> None:
        """Register the hooks; the stack removes them."""
        if isinstance(self._tangent, AnyModuleTangent):
            before = module.register_forward_pre_hook(self._before)
            hooks.callback(before.remove)
        # Before other hooks, so that ZeRO-3's gather what the module needs before the identity's
        # backward pass, and release it after.
        after = module.register_forward_hook(self._after, with_kwargs=True, prepend=True)
        hooks.callback(after.remove)

    def _before(self, module: nn.Module, _: tuple[Any, ...]) -> None:
        self._states = self._hooks.random_states()
        if self._states:
            self._restart = random_states_of(module)

    def _after(
        self,
        module: nn.Module,
        positional: tuple[Any, ...],
        named: Mapping[str, Any],
        outputs: Any,
    ) -> Any:
        call = Call(positional, named, self._states, self._restart)
        return self._hooks.measure(module, self._name, self._tangent, call, outputs)


class _MeasuringIdentity(torch.autograd.Function):
    """Identity on a module's outputs, whose backward pass adds up each sequence's derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,  # noqa: ARG004  (requires a gradient)
        tangent: Tangent,
        call: Call,
        rows: Sequence[SequenceRows],
        sums: SequenceSums,
        *outputs: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the outputs; save what the tangent keeps of the call."""
        ctx.set_materialize_grads(False)
        ctx.tangent, ctx.rows, ctx.sums = tangent, rows, sums
        ctx.save_for_backward(*tangent.kept(call))
        # Not views: what follows may write into its input.
        return tuple([output.detach() for output in outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        if any(gradient is not None for gradient in gradients):
            backward = BackwardCall(gradients, ctx.saved_tensors, ctx.rows)
            ctx.tangent.add_derivatives(ctx.sums, backward)
        return (None, None, None, None, None, *gradients)


_measuring_identity = cast("Callable[..., tuple[Tensor, ...]]", _MeasuringIdentity.apply)
