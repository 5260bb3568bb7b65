"""Shows how far a build is, where somebody watches. Knows stages and amounts alone."""

from types import TracebackType
from typing import Any, Self, final

from tqdm import tqdm

from megadga.prepare.pipeline.progress import Stage

_UNITS: dict[Stage, str] = {"tokenizing": "B", "writing": " tokens"}


@final
class Bars:
    """A bar on the terminal for each stage of a build; a ``Progress``.

    The last one ends with the ``with`` block.
    """

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._bar: Any = None  # tqdm's stubs want something to iterate over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        """Show how far a stage is."""
        if self._bar is None or stage != self._stage:
            self.__exit__(None, None, None)
            self._stage = stage
            self._bar = tqdm(
                total=total, initial=done, desc=stage, unit=_UNITS[stage], unit_scale=True,
                disable=None,  # where nobody watches
            )  # fmt: skip
        self._bar.update(done - self._bar.n)
