"""Follows which sequence each row of a tensor is of, through functions that choose and reorder rows.

Modules that route tokens (experts) or drop padding are given rows whose number and order depend on
the data. A number of the sequence goes with every row, from outputs whose layout is known to the
inputs of such modules. What a function does that is not listed here is not followed: its result has
no numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from megadga.alignment.tangents.tangent import SequenceRows

# Functions by name, as methods and operators have them too.
ELEMENTWISE = frozenset(
    pattern.format(name)
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide", "pow")
    for pattern in ("{}", "{}_", "__{}__", "__r{}__", "__i{}__")
)
UNARY = frozenset(
    "to float double half bfloat16 long type type_as contiguous clone detach dropout gelu silu relu relu_ "
    "sigmoid tanh neg exp sqrt rsqrt square abs clamp clamp_min clamp_max softplus leaky_relu "
    "mish elu hardtanh".split()
)
_ROW_BY_ROW = frozenset("linear layer_norm rms_norm".split())
_OVER_LAST_AXIS = frozenset("mean sum var softmax log_softmax".split())
_NEW_SHAPES = frozenset("view reshape flatten unsqueeze squeeze unflatten".split())
_ALONG_AN_AXIS = frozenset("index_select repeat_interleave split chunk narrow flip roll".split())
_JOINING = frozenset("cat concat concatenate".split())


@final
class Following(TorchFunctionMode):
    """Numbers of the sequences that rows are of, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: Any = WeakTensorKeyDictionary()
        self._of_rows: dict[tuple[Any, ...], Tensor] = {}

    def begin(self, tokens: Tensor | None) -> None:
        """Start a micro-batch, perhaps with its tokens, shape ``(b, S + 1)``."""
        self._numbers = WeakTensorKeyDictionary()
        self._of_rows = {}
        if tokens is not None:
            rows = SequenceRows(len(tokens))
            self._numbers[tokens] = self._numbered(rows, tuple(tokens.shape), tokens.device)

    def rows(self, tensor: Tensor, num_axes: int, num_sequences: int) -> SequenceRows | None:
        """Return which rows of a tensor belong to which sequence; None if it is not known.

        Args:
            tensor: An output of a module, or an input that has a row for each of the output's.
            num_axes: Axes of the output.
            num_sequences: Of the micro-batch.
        """
        numbers = self._numbers.get(tensor)
        if numbers is None or numbers.ndim >= num_axes:
            return None
        return SequenceRows(num_sequences, numbers=numbers)

    def follow(self, tensor: Tensor, rows: SequenceRows) -> None:
        """Follow the rows of a module's output from here on."""
        if rows.numbers is not None:
            self._numbers[tensor] = rows.numbers
        elif rows.axis < tensor.ndim - 1:
            self._numbers[tensor] = self._numbered(rows, tuple(tensor.shape[:-1]), tensor.device)

    def _numbered(self, rows: SequenceRows, shape: tuple[int, ...], device: torch.device) -> Tensor:
        key = (shape, rows.axis, rows.interleaved)
        if key not in self._of_rows:
            length = shape[rows.axis]
            places = torch.arange(length, device=device)
            each = length // rows.num_sequences
            owners = places % rows.num_sequences if rows.interleaved else places // each
            along = owners.view(-1, *(1,) * (len(shape) - rows.axis - 1))
            self._of_rows[key] = along.expand(shape)
        return self._of_rows[key]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; number the rows of its result."""
        named = kwargs or {}
        first = args[0] if args else next(iter(named.values()), None)
        candidates = first if isinstance(first, list | tuple) else (first, *args[1:2])
        tensors = [each for each in candidates if isinstance(each, Tensor)]
        # Looked up before the call, which may write into one of them.
        before = [(each, self._numbers.get(each)) for each in tensors]
        result = func(*args, **named)
        if any(numbers is not None for _, numbers in before):
            with torch.no_grad():
                self._note(func, args, named, before, result)
        return result

    def _note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        before: Sequence[tuple[Tensor, Tensor | None]],
        result: Any,
    ) -> None:
        results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not results:
            if func.__name__ == "__setitem__":  # its rows may be of other sequences now
                self._numbers.pop(before[0][0], None)
            return
        found = list(_followed(func, args, named, before, results))
        for tensor, numbers in zip(results, found or [None] * len(results), strict=True):
            if numbers is not None:
                self._numbers[tensor] = numbers
            else:
                self._numbers.pop(tensor, None)


def _followed(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    named: Mapping[str, Any],
    before: Sequence[tuple[Tensor, Tensor | None]],
    results: Sequence[Tensor],
) -> Iterator[Tensor | None]:
    """Yield the numbers of each result's rows; nothing if they are not known."""
    name, result = func.__name__, results[0]
    if name in ELEMENTWISE:
        yield _common([n for t, n in before if n is not None], before, result)
        return
    (tensor, numbers), *others = before
    if name in _JOINING:
        axis = args[1] if len(args) > 1 else named.get("dim", 0)
        known = [n for _, n in before if n is not None]
        if len(known) == len(before) and 0 <= axis < min(n.ndim for n in known):
            yield torch.cat(known, axis)
        return
    if numbers is None:
        return
    trailing = tuple(tensor.shape[numbers.ndim :])
    if name in UNARY:
        yield numbers if result.shape == tensor.shape else None
    elif name in _ROW_BY_ROW or (name in ("matmul", "__matmul__") and others[0][0].ndim == 2):
        if trailing and result.shape[:-1] == tensor.shape[:-1]:
            yield numbers
    elif name in _OVER_LAST_AXIS:
        axis = args[1] if len(args) > 1 else named.get("dim")
        if axis in (-1, [-1], (-1,)) and trailing and result.shape[:-1] == tensor.shape[:-1]:
            yield numbers if result.ndim == tensor.ndim else None
    elif name in _NEW_SHAPES:
        leading = result.ndim - len(trailing)
        if trailing and leading >= 0 and tuple(result.shape[leading:]) == trailing:
            yield numbers.reshape(result.shape[:leading])
        elif not trailing:
            yield numbers.reshape(result.shape)
    elif name == "__getitem__":
        if _num_indexed(args[1]) <= numbers.ndim:
            yield numbers[args[1]]
    elif name in _ALONG_AN_AXIS:
        yield from _along_an_axis(func, args, named, numbers, tensor, len(results))


def _common(
    known: Sequence[Tensor], before: Sequence[tuple[Tensor, Tensor | None]], result: Tensor
) -> Tensor | None:
    """Return the numbers of rows that are combined element by element, if they are the same."""
    for tensor, numbers in before:
        if numbers is not None and (
            tensor.ndim != result.ndim
            or tensor.shape[: numbers.ndim] != result.shape[: numbers.ndim]
        ):
            return None
    first = known[0]
    if all(each is first or torch.equal(each, first) for each in known[1:]):
        return first
    return None


def _num_indexed(index: Any) -> float:
    """Return how many axes an index is about; infinite where that is not plain."""
    parts = index if isinstance(index, tuple) else (index,)
    count = 0.0
    for part in parts:
        if part is None:
            continue
        if isinstance(part, Tensor) and part.dtype == torch.bool:
            count += part.ndim
        elif isinstance(part, Tensor | slice | int | list):
            count += 1
        else:  # an ellipsis, for one
            return float("inf")
    return count


def _along_an_axis(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    named: Mapping[str, Any],
    numbers: Tensor,
    tensor: Tensor,
    num_results: int,
) -> Iterator[Tensor | None]:
    """Do with the numbers what was done with the rows, or nothing where that was along others."""
    name = func.__name__
    place = {"index_select": 1, "narrow": 1, "flip": 1, "roll": 2}.get(name, 2)
    axis = args[place] if len(args) > place else named.get("dim", named.get("dims"))
    if axis is None:
        axis = 0 if name in ("split", "chunk") else None
    if not isinstance(axis, int):
        return
    axis %= tensor.ndim
    if axis < numbers.ndim:
        # In the tensor's own terms, should the axis have been counted from the end.
        moved = [axis if i == place else each for i, each in enumerate(args)]
        changed = {k: axis if k in ("dim", "dims") else each for k, each in named.items()}
        found = func(numbers, *moved[1:], **changed)
        yield from found if isinstance(found, list | tuple) else (found,)
    elif name in ("split", "chunk"):
        yield from [numbers] * num_results
