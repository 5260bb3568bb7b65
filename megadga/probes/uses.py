"""Notes what functions of torch make of tensors, while a model runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, final

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from megadga.probes.routing import ELEMENTWISE, UNARY

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
