"""Finds where the sequences of a micro-batch lie in the outputs of a model's modules.

Shapes alone do not tell: an axis as long as the micro-batch may count experts, and a first axis of
1 may hold all sequences one after another. So the model is run, without gradients, on two
sequences, and again with one of them changed: what changes with it belongs to it. An output that
depends on no sequence, such as a position embedding, has the layout of what it is first added to.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from megadga.probes.choosing_tangents import maps_rows
from megadga.probes.routing import ELEMENTWISE, UNARY
from megadga.probes.sequence_rows import SequenceRows
from megadga.probes.tangents import output_tensors

Signature = TypeVar("Signature")


# Functions by name, as methods and operators have them too.
_NEW_AXES = frozenset({"unsqueeze", "__getitem__", "view", "reshape"})


_REPEATED = frozenset({"expand", "expand_as", "broadcast_to"})


_JOINED = frozenset({"cat", "concat", "concatenate"})


_LONGEST = 8  # functions from an output to what it is added to


@dataclass(eq=False)
class Use(Generic[Signature]):
    """What a function made of an output, or of what others had made of it.

    Attributes:
        shape: Of the result.
        signature: Of the result; None if it is not known where the output's elements are in it.
        viewed: Whether the output had got axes more by then.
        joined_along: The axis, if it was concatenated with others.
        next: What became of the result.
    """

    shape: tuple[int, ...]
    signature: Signature | None
    viewed: bool = False
    joined_along: int | None = None
    next: "list[Use[Signature]]" = field(default_factory=list["Use[Signature]"])


@dataclass(eq=False)
class _Followed(Generic[Signature]):
    """A tensor that is an output, or was made of one place by place."""

    tensor: Tensor  # kept, so that no other tensor has its id
    shape: tuple[int, ...]  # of the output
    viewed: bool
    uses: list[Use[Signature]]
    depth: int


@final
class Uses(TorchFunctionMode, Generic[Signature]):
    """Notes, while it is entered, what the outputs that it follows are used for.

    Args:
        signature: What is noted of a result.

    Attributes:
        of: By output, what was made of it.
    """

    def __init__(self, signature: Callable[[Tensor], Signature]) -> None:
        super().__init__()
        self._signature = signature
        self._followed: dict[int, list[_Followed[Signature]]] = {}
        self.of: dict[Any, list[Use[Signature]]] = {}

    def follow(self, key: Any, output: Tensor) -> None:
        """Follow an output from here on."""
        uses = self.of.setdefault(key, [])
        self._add(_Followed(output, tuple(output.shape), viewed=False, uses=uses, depth=0))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and note what it made of what is followed."""
        named = kwargs or {}
        result = func(*args, **named)
        if self._followed:
            leaves = pytree.tree_leaves((args, dict(named)))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            if found := [f for tensor in tensors for f in self._followed.get(id(tensor), ())]:
                self._note(func.__name__, args, named, len(tensors), found, result)
        return result

    def _add(self, followed: "_Followed[Signature]") -> None:
        self._followed.setdefault(id(followed.tensor), []).append(followed)

    def _note(
        self,
        name: str,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        num_tensors: int,
        found: "list[_Followed[Signature]]",
        result: Any,
    ) -> None:
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            return  # a shape or such
        for each in found:
            if not isinstance(result, Tensor) or each.depth == _LONGEST:
                each.uses.append(Use((), None))
                continue
            use = self._use(name, args, named, num_tensors, each, result)
            each.uses.append(use)
            if use.signature is not None:
                self._add(
                    _Followed(result, each.shape, use.viewed, uses=use.next, depth=each.depth + 1)
                )

    def _use(
        self,
        name: str,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        num_tensors: int,
        followed: "_Followed[Signature]",
        result: Tensor,
    ) -> Use[Signature]:
        shape, own = tuple(result.shape), tuple(followed.tensor.shape)
        viewed, joined, known = followed.viewed, None, False
        if name in ELEMENTWISE:
            known = _broadcasts(own, shape)
        elif name in UNARY:
            known = num_tensors == 1 and shape == own
        elif name in _NEW_AXES:
            index = args[1:] if name == "__getitem__" else ()
            leading = len(shape) - len(own)
            known = num_tensors == 1 and not _picks(index)
            known = known and leading >= 0 and shape == (1,) * leading + own
            viewed = viewed or leading > 0 or name in ("view", "reshape")
        elif name in _REPEATED:
            known = _broadcasts(own, shape)
        elif name in _JOINED:
            axis = args[1] if len(args) > 1 else named.get("dim", 0)
            known = isinstance(axis, int) and len(own) == len(followed.shape)
            joined = axis % len(shape) if known else None
        return Use(shape, self._signature(result) if known else None, viewed, joined)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Tell whether a shape becomes another one by repetition."""
    if len(shape) > len(to):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def _picks(index: Any) -> bool:
    """Tell whether an index may put elements in another order."""
    allowed = (slice, type(None), type(Ellipsis))
    return not all(isinstance(leaf, allowed) for leaf in pytree.tree_leaves(index))


_NUM_SEQUENCES = 2  # that layouts are learned on


# Changes below this share of a row are rounding: of kernels that sum in another order.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}


@dataclass(frozen=True)
class Layout:
    """Where the sequences lie in one output of a module, at any size of the micro-batch.

    Attributes:
        shape: Of one sequence's part of the output.
        axis: The axis along which the sequences lie.
        interleaved: Whether they take turns along it.
        shared: None, or how the output gets a row a sequence: ``"axis"`` repeats it along its
            axis, which has length 1, ``"new"`` along a new first axis.
    """

    shape: tuple[int, ...]
    axis: int
    interleaved: bool = False
    shared: str | None = None

    @property
    def has_rows(self) -> bool:
        """Whether the output has a row a sequence along its first axis."""
        return self.axis == 0 and self.shape[0] == 1 and self.shared is None

    def fits(self, shape: Sequence[int], num_sequences: int) -> bool:
        """Tell whether this can be the layout of an output of a shape."""
        if self.shared is not None:
            return tuple(shape) == self.shape[1 if self.shared == "new" else 0 :]
        if self.has_rows and len(shape) == len(self.shape) > 2:
            # However long the longest of them is.
            return shape[0] == num_sequences and shape[-1] == self.shape[-1]
        length = self.shape[self.axis] * num_sequences
        return tuple(shape) == (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])

    def apply(self, output: Tensor, num_sequences: int) -> tuple[Tensor, SequenceRows]:
        """Return an output, repeated if sequences share it, and where they are in it."""
        if self.shared == "new":
            return output.expand(num_sequences, *output.shape), SequenceRows(num_sequences)
        if self.shared == "axis":
            shape = list(output.shape)
            shape[self.axis] = num_sequences
            output = output.expand(shape)
        return output, SequenceRows(num_sequences, self.axis, self.interleaved)


@final
class Layouts:
    """The layouts of the outputs of a model's modules.

    Args:
        of_outputs: By name of the module and place among its floating-point outputs; several where
            its calls differ.
        unknown: Modules with an output of which that is not known, and its shape.

    Attributes:
        unknown: As given.
    """

    def __init__(
        self,
        of_outputs: Mapping[tuple[str, int], AbstractSet[Layout]],
        unknown: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._of_outputs = of_outputs
        self.unknown = unknown

    def find(
        self, name: str, place: int, shape: Sequence[int], num_sequences: int
    ) -> Layout | None:
        """Return the layout of an output, None if it is not known or there is a choice."""
        known = self._of_outputs.get((name, place), ())
        fitting = [layout for layout in known if layout.fits(shape, num_sequences)]
        return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True, eq=False)
class _Signature:
    """What of a tensor shows whether it has changed.

    Attributes:
        numbers: An integer tensor as it is, or four numbers of each row of another one.
        rounding: Changes below this share of a row do not count; None where there is no rounding.
    """

    numbers: Tensor
    rounding: float | None


@dataclass(frozen=True, eq=False)
class _Observed:
    """What one run shows of one output: its shape, and what changes when a row of it does."""

    shape: tuple[int, ...]
    signature: _Signature


_Key = tuple[str, int, int]  # name of a module, number of its call, place of the output


@dataclass(eq=False)
class _Observation:
    """What one run of a model shows."""

    outputs: dict[_Key, _Observed] = field(default_factory=dict[_Key, _Observed])
    uses: Mapping[_Key, Sequence[Use[_Signature]]] = field(
        default_factory=dict[_Key, Sequence[Use[_Signature]]]
    )


def learn_layouts(
    hookable: Sequence[tuple[str, nn.Module]],
    tokens: Tensor,
    *,
    run: Callable[[Tensor], object],
    padding: int,
) -> Layouts:
    """Find out where the sequences lie in every output of modules.

    Args:
        hookable: The modules of the model that own parameters, with their names.
        tokens: Two sequences, shape ``(2, S + 1)``.
        run: Calls the model with tokens, from the same random states every time.
        padding: The token that follows a sequence that is shorter.
    """
    assert len(tokens) == _NUM_SEQUENCES
    inputs = [tokens, *(_reordered(tokens, i, padding) for i in range(_NUM_SEQUENCES))]
    runs = [_observe(hookable, each, run) for each in inputs]
    found: dict[_Key, Layout] = {}
    independent: set[_Key] = set()
    for key in _in_all(runs):
        changes = _changes([each.outputs[key].signature for each in runs])
        if not any(bool(change.any()) for change in changes):
            independent.add(key)
        elif (layout := _layout(runs[0].outputs[key].shape, changes)) is not None:
            found[key] = layout
    if independent:
        runs = [_observe(hookable, each, run, independent) for each in inputs]
        for key in independent.intersection(*(each.uses for each in runs)):
            shape = runs[0].outputs[key].shape
            if (layout := _layout_by_use(shape, [each.uses[key] for each in runs])) is not None:
                found[key] = layout
    # The elements of a sequence are its tokens, or as many as where it has a row of its own. Any
    # other number may be one of tokens that happened to be chosen.
    lengths = {1, tokens.shape[1] - 1, tokens.shape[1]}
    lengths |= {each.shape[1] for each in found.values() if each.has_rows and len(each.shape) > 2}
    return _of_all_calls(
        {key: each for key, each in found.items() if each.shape[each.axis] in lengths}, runs[0]
    )


def _of_all_calls(found: Mapping[_Key, Layout], run: _Observation) -> Layouts:
    """Return the layouts by output, whatever the call; none that fits a call of unknown layout."""
    layouts: dict[tuple[str, int], set[Layout]] = {}
    for (name, _, place), layout in found.items():
        layouts.setdefault((name, place), set()).add(layout)
    unknown: dict[str, tuple[int, ...]] = {}
    for key, observed in run.outputs.items():
        if key in found:
            continue
        unknown.setdefault(key[0], observed.shape)
        known = layouts.get((key[0], key[2]), set())
        known -= {each for each in known if each.fits(observed.shape, _NUM_SEQUENCES)}
    return Layouts(layouts, unknown)


NO_LAYOUTS = Layouts({}, {})
"""Enough for micro-batches of one sequence."""


def _in_all(runs: Sequence[_Observation]) -> list[_Key]:
    """Return what is there in every run with one shape."""
    first, *others = runs
    return [
        key
        for key, observed in first.outputs.items()
        if all(
            key in each.outputs
            and each.outputs[key].shape == observed.shape
            and each.outputs[key].signature.numbers.shape == observed.signature.numbers.shape
            for each in others
        )
    ]


def _reordered(tokens: Tensor, index: int, padding: int) -> Tensor:
    """Return tokens of which one sequence has its own in another order."""
    reordered = tokens.clone()
    length = int((tokens[index] != padding).sum())
    reordered[index, :length] = tokens[index, :length].roll(1)
    return reordered


def _observe(
    hookable: Sequence[tuple[str, nn.Module]],
    tokens: Tensor,
    run: Callable[[Tensor], object],
    followed: AbstractSet[_Key] = frozenset(),
) -> _Observation:
    """Run the model once and note what its modules return, and how some of that is used."""
    observation = _Observation()
    calls: dict[str, int] = {}
    uses: Uses[_Signature] = Uses(_signature)

    def noting(name: str, module: nn.Module) -> Callable[..., None]:
        by_input = maps_rows(module)

        def note(
            _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], outputs: Any
        ) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            for place, output in enumerate(output_tensors(outputs)):
                key = (name, call, place)
                # Some layers return the same for all inputs, as those of adapters do at first.
                rows = (*positional, *named.values())[0] if by_input else output
                observation.outputs[key] = _Observed(tuple(output.shape), _signature(rows))
                if key in followed:
                    uses.follow(key, output)

        return note

    with ExitStack() as stack, torch.no_grad(), warnings.catch_warnings():
        # Of reentrant checkpoints, which are told so of every pass without gradients.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        for name, module in hookable:
            hook = module.register_forward_hook(
                noting(name, module), with_kwargs=True, prepend=True
            )
            stack.callback(hook.remove)
        if followed:
            stack.enter_context(uses)
        run(tokens)
    observation.uses = uses.of
    return observation


def _signature(tensor: Tensor) -> _Signature:
    if not tensor.is_floating_point():
        return _Signature(tensor.detach().clone(), None)
    rows = tensor.detach().float()
    if rows.ndim < 2:
        rows = rows.unsqueeze(-1)
    places = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    weights = torch.sin(torch.outer(places, places.new_tensor([1.0, 2.3, 3.7, 5.1])))
    with torch.autocast(tensor.device.type, enabled=False):
        numbers = torch.nan_to_num(rows @ weights)
    return _Signature(numbers, _ROUNDING.get(tensor.dtype, 2e-2))


def _changes(signatures: Sequence[_Signature]) -> list[Tensor]:
    """Return which rows change with each sequence, each bool."""
    first, *others = signatures
    if first.rounding is None:
        return [other.numbers != first.numbers for other in others]
    norm = _norms(first.numbers)
    return [
        _norms(other.numbers - first.numbers)
        > first.rounding * torch.maximum(norm, _norms(other.numbers))
        for other in others
    ]


def _norms(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=-1).sqrt()


def _layout(shape: tuple[int, ...], changes: Sequence[Tensor]) -> Layout | None:
    """Return the one layout in which each sequence changes nothing but what belongs to it."""
    found: set[Layout] = set()
    if not all(bool(change.any()) for change in changes):
        return None
    for axis in range(changes[0].ndim):
        each, rest = divmod(shape[axis], _NUM_SEQUENCES)
        if rest:
            continue
        places = torch.arange(shape[axis], device=changes[0].device)
        of_one = (*shape[:axis], each, *shape[axis + 1 :])
        if _owns(changes, axis, places // each):
            found.add(Layout(of_one, axis))
        if each > 1 and _owns(changes, axis, places % _NUM_SEQUENCES):
            found.add(Layout(of_one, axis, interleaved=True))
    return found.pop() if len(found) == 1 else None


def _owns(changes: Sequence[Tensor], axis: int, owners: Tensor) -> bool:
    """Tell whether sequences change their own places along an axis alone."""
    return not any(
        bool(change.movedim(axis, 0)[owners != sequence].any())
        for sequence, change in enumerate(changes)
    )


def _layout_by_use(
    shape: tuple[int, ...], uses: Sequence[Sequence[Use[_Signature]]]
) -> Layout | None:
    """Return the layout of an output that depends on no sequence: of all that it is added to.

    Args:
        shape: Of the output.
        uses: What became of it, in each run.
    """
    found: set[Layout | None] = set()

    def walk(runs: Sequence[Sequence[Use[_Signature]]]) -> None:
        if not runs[0] or any(len(each) != len(runs[0]) for each in runs):
            found.add(None)  # what becomes of it is not seen
            return
        for same in zip(*runs, strict=True):
            signatures = [use.signature for use in same if use.signature is not None]
            if len(signatures) < len(same) or len({use.shape for use in same}) > 1:
                found.add(None)
                continue
            changes = _changes(signatures)
            if any(bool(change.any()) for change in changes):
                layout = _layout(same[0].shape, changes)
                found.add(layout and _among(shape, layout, same[0]))
            elif same[0].joined_along is not None:
                found.add(None)
            else:
                walk([use.next for use in same])

    walk(uses)
    return found.pop() if len(found) == 1 else None


def _among(shape: tuple[int, ...], layout: Layout, use: Use[_Signature]) -> Layout | None:
    """Return where sequences lie in an output, from where they lie in what it is added to."""
    axis = layout.axis - (len(layout.shape) - len(shape))
    each = layout.shape[layout.axis]
    if use.joined_along == layout.axis:
        return None
    if axis >= 0 and shape[axis] == each * _NUM_SEQUENCES:
        of_one = (*shape[:axis], each, *shape[axis + 1 :])
        return Layout(of_one, axis, layout.interleaved)
    if use.viewed or each > 1:
        return None
    if axis == -1:
        return Layout((1, *shape), 0, shared="new")
    return Layout(shape, axis, shared="axis") if axis >= 0 and shape[axis] == 1 else None
