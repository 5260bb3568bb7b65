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
from typing import Any

import torch
from torch import Tensor, nn

from megadga.probes.choosing_tangents import maps_rows
from megadga.probes.layouts import Layout, Layouts
from megadga.probes.tangents import output_tensors
from megadga.probes.uses import Use, Uses

_NUM_SEQUENCES = 2  # that layouts are learned on
# Changes below this share of a row are rounding: of kernels that sum in another order.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}


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
