"""How much memory tensors hold, exactly, on any device."""

import weakref
from typing import Any, final

from torch import Tensor, UntypedStorage
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


@final
class LiveStorages(TorchDispatchMode):
    """Counts the storages that operations make while it is entered, each once, while they live.

    Storages that were there before, whoever made them, count nothing, and neither does what an
    operation needs only inside itself.

    Attributes:
        live: Bytes that are held now.
        peak: The most that was held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and see what it returns."""
        named = kwargs or {}
        for storage in _storages((args, named)):
            self._see(storage, is_new=False)
        outputs = func(*args, **named)
        for storage in _storages(outputs):
            self._see(storage, is_new=True)
        self.peak = max(self.peak, self.live)
        return outputs

    def _see(self, storage: UntypedStorage, *, is_new: bool) -> None:
        """Count a storage that was never seen; or how much one that is counted has grown."""
        if storage.device.type == "meta":  # has none
            return
        # Its address: nothing else tells storages apart that are empty, or were emptied.
        key = storage._cdata  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if key not in self._sizes:
            self._sizes[key] = -1  # not counted
            weakref.finalize(storage, self._forget, key).atexit = False
            if not is_new:
                return
            self._sizes[key] = 0
        if self._sizes[key] >= 0:
            self.live += storage.nbytes() - self._sizes[key]
            self._sizes[key] = storage.nbytes()

    def _forget(self, key: int) -> None:
        self.live -= max(self._sizes.pop(key), 0)


def _storages(values: Any) -> list[UntypedStorage]:
    leaves = pytree.tree_leaves(values)
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]
