"""Shows how far work is, where somebody watches. Knows stages and amounts alone."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, final

from tqdm import tqdm


@final
class Bars:
    """A bar on the terminal for each stage; a ``Stages``.

    The bar of a stage ends when the next stage begins; that of the last, with the ``with`` block.
    """

    def __init__(self) -> None:
        self._bar: Any = None  # tqdm's stubs want something to iterate over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __call__(self, stage: str, total: int, unit: str, /) -> Callable[[int], object]:
        """Begin a stage; return what its bar is moved with."""
        self._close()
        self._bar = tqdm(
            total=total, desc=stage, unit=unit, unit_scale=True,
            disable=None,  # where nobody watches
        )  # fmt: skip
        return self._bar.update

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
