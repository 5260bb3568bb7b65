"""Tracks which sequence each row of a tensor belongs to, through selecting and sorting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from megadga.probes.sequence_rows import SequenceRows


@final
class SequenceTracker(TorchFunctionMode):
    """Context that tracks the sequence of each row."""

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

    def _numbered(
        self, rows: SequenceRows, shape: tuple[int, ...], device: torch.device
    ) -> Tensor:
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
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; number the rows of its result."""
        named = kwargs or {}
        first = args[0] if args else next(iter(named.values()), None)
        given = _listed(first)
        tensors = [each for each in (*given, *args[1:2]) if isinstance(each, Tensor)]
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
        rule = _RULES.get(func.__name__, _nothing)
        found = rule(_Called(func, args, named, before, results))
        for tensor, numbers in zip(results, found, strict=True):
            if numbers is not None:
                self._numbers[tensor] = numbers
            else:
                self._numbers.pop(tensor, None)


_Found = Sequence[Tensor | None]


@dataclass(frozen=True, eq=False)
class _Called:
    """A function of torch that was called.

    Attributes:
        func: The function.
        args: Its positional arguments.
        named: Its keyword arguments.
        before: The tensors among its first arguments, and the numbers of their rows.
        results: The tensors that it returned.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    named: Mapping[str, Any]
    before: Sequence[tuple[Tensor, Tensor | None]]
    results: Sequence[Tensor]

    def argument(self, place: int, name: str) -> Any:
        """Return an argument by position or name; None if it was not passed."""
        return self.args[place] if len(self.args) > place else self.named.get(name)

    @property
    def numbers(self) -> Tensor | None:
        """Of the rows of the first tensor."""
        return self.before[0][1]

    @property
    def keeps_rows(self) -> bool:
        """Whether the first tensor has rows, and the result has as many in as many axes."""
        (tensor, numbers), result = self.before[0], self.results[0]
        return (
            numbers is not None
            and numbers.ndim < tensor.ndim == result.ndim
            and tensor.shape[:-1] == result.shape[:-1]
        )


def _listed(value: Any) -> list[Any]:
    """Return the elements of a list or tuple; other values as a single element."""
    return list(cast("Sequence[Any]", value)) if isinstance(value, list | tuple) else [value]


def _nothing(called: _Called) -> _Found:
    return [None] * len(called.results)


def _elementwise(called: _Called) -> _Found:
    """The numbers of all whose rows have some, if they are the same and lie as the result's do."""
    (result,) = called.results
    known = [(tensor, numbers) for tensor, numbers in called.before if numbers is not None]
    first = known[0][1]
    for tensor, numbers in known:
        axes = numbers.ndim
        if tensor.ndim != result.ndim or tensor.shape[:axes] != result.shape[:axes]:
            return [None]
        if numbers is not first and not torch.equal(numbers, first):
            return [None]
    return [first]


def _unary(called: _Called) -> _Found:
    (result,) = called.results
    return [called.numbers if result.shape == called.before[0][0].shape else None]


def _row_by_row(called: _Called) -> _Found:
    return [called.numbers if called.keeps_rows else None]


def _times_matrix(called: _Called) -> _Found:
    is_matrix = len(called.before) > 1 and called.before[1][0].ndim == 2
    return _row_by_row(called) if is_matrix else [None]


def _over_last_axis(called: _Called) -> _Found:
    axis = called.argument(1, "dim")
    last = axis in (-1, called.before[0][0].ndim - 1, [-1], (-1,))
    return _row_by_row(called) if last else _nothing(called)


def _reshaped(called: _Called) -> _Found:
    """What is left in its order, as long as a row's own axes are as they were."""
    (tensor, numbers), result = called.before[0], called.results[0]
    if numbers is None:
        return [None]
    trailing = tensor.shape[numbers.ndim :]
    leading = result.ndim - len(trailing)
    if leading < 0 or result.shape[leading:] != trailing:
        return [None]
    return [numbers.reshape(result.shape[:leading])]


def _indexed(called: _Called) -> _Found:
    index = called.args[1]
    if called.numbers is None or _num_indexed(index) > called.numbers.ndim:
        return [None]
    return [called.numbers[index]]


def _num_indexed(index: Any) -> float:
    """Return the number of axes that an index covers; infinite if unknown."""
    count = 0.0
    for part in _listed(index) if isinstance(index, tuple) else [index]:
        if isinstance(part, Tensor) and part.dtype == torch.bool:
            count += part.ndim
        elif isinstance(part, Tensor | slice | int | list) and not isinstance(part, bool):
            count += 1
        elif part is not None:  # an ellipsis, for one
            return float("inf")
    return count


def _joined(called: _Called) -> _Found:
    axis = called.argument(1, "dim") or 0
    known = [numbers for _, numbers in called.before if numbers is not None]
    if len(known) < len(called.before) or not 0 <= axis < min(each.ndim for each in known):
        return [None]
    return [torch.cat(known, axis)]


def _along_axis(place: int, *, default: int | None = None) -> Callable[[_Called], _Found]:
    """Return a rule that does with the numbers what is done with the rows along an axis.

    Args:
        place: Of the axis among the arguments.
        default: The axis, if it is not among them.
    """

    def rule(called: _Called) -> _Found:
        (tensor, numbers), name = called.before[0], "dim"
        axis = called.argument(place, name)
        axis = default if axis is None else axis
        if numbers is None or not isinstance(axis, int):
            return _nothing(called)
        axis %= tensor.ndim
        if axis >= numbers.ndim:  # within the rows
            return [numbers if each.ndim == tensor.ndim else None for each in called.results]
        # Counted from the front, as the numbers have fewer axes.
        args = [axis if i == place else each for i, each in enumerate(called.args)]
        named = {key: axis if key == name else each for key, each in called.named.items()}
        found = called.func(numbers, *args[1:], **named)
        return _listed(found)

    return rule


def _operators(*names: str) -> set[str]:
    """Return the names of operations as functions, methods and operators, in place or not."""
    patterns = ("{}", "{}_", "__{}__", "__r{}__", "__i{}__")
    return {pattern.format(name) for name in names for pattern in patterns}


ELEMENTWISE = frozenset(_operators("add", "sub", "mul", "div", "truediv", "true_divide", "pow"))


UNARY = frozenset(
    {"to", "float", "double", "half", "bfloat16", "long", "type", "type_as"}
    | {"contiguous", "clone", "detach", "dropout", "neg", "abs", "square", "exp", "sqrt", "rsqrt"}
    | {"gelu", "silu", "relu", "relu_", "sigmoid", "tanh", "softplus", "leaky_relu", "mish", "elu"}
    | {"clamp", "clamp_min", "clamp_max", "hardtanh"}
)


_RULES: Mapping[str, Callable[[_Called], _Found]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(("linear", "layer_norm", "rms_norm"), _row_by_row),
    **dict.fromkeys(("matmul", "__matmul__"), _times_matrix),
    **dict.fromkeys(("mean", "sum", "var", "softmax", "log_softmax"), _over_last_axis),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten"), _reshaped),
    **dict.fromkeys(("unsqueeze", "squeeze"), _reshaped),
    **dict.fromkeys(("cat", "concat", "concatenate"), _joined),
    **dict.fromkeys(("index_select", "narrow", "flip"), _along_axis(1)),
    **dict.fromkeys(("split", "chunk"), _along_axis(2, default=0)),
    "repeat_interleave": _along_axis(2),
    "__getitem__": _indexed,
}
