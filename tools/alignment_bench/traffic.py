"""What collectives carry, counted where torch dispatches them."""

import traceback
from collections import Counter
from typing import Any, final

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_OURS = "megadga.probes.collective"


@final
class Traffic(TorchDispatchMode):
    """Counts the payload of collectives while it is entered, on this rank.

    The payload of a collective is its larger side: the whole tensor of an all-reduce or broadcast,
    what goes into a reduce-scatter, what comes out of an all-gather. What travels is, by ring,
    ``2 (W - 1) / W`` of it for an all-reduce, and ``(W - 1) / W`` for the others.

    Attributes:
        own: Bytes that megadga's probes sent, by operation.
        others: Bytes that anybody else sent (DeepSpeed), by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.own: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count it if it is a collective."""
        if func.namespace == "c10d" and (payload := max(map(_num_bytes, args))):
            counter = self.own if _is_ours() else self.others
            counter[func._schema.name.removeprefix("c10d::").strip("_")] += payload  # noqa: SLF001
        return func(*args, **(kwargs or {}))


def _num_bytes(argument: Any) -> int:
    leaves = pytree.tree_leaves(argument)
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


def _is_ours() -> bool:
    """Tell whether megadga's collectives are among the callers."""
    return any(frame.f_globals["__name__"] == _OURS for frame, _ in traceback.walk_stack(None))
