"""Progress reporting for long tasks."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, final

from megadga.console import shows_bars


class Stages(Protocol):
    """Reports progress, stage by stage."""

    def __call__(self, stage: str, total: int, unit: str, /) -> Callable[[int], object]:
        """Begin a stage.

        Args:
            stage: What is done.
            total: Units in all.
            unit: What is counted: ``"B"`` for bytes of input, else a word with a space before it.

        Returns:
            A function to call with each number of completed units.
        """
        ...


def no_progress(_stage: str, _total: int, _unit: str, /) -> Callable[[int], object]:
    """Report nothing."""
    return lambda _: None


LINE_INTERVAL_S = 60.0


@final
class ProgressBars:
    """Shows each stage on a terminal as a bar, or in a log as lines; a ``Stages``.

    The bar of a stage ends when the next stage begins; that of the last, with the ``with`` block.

    Args:
        stream: Where to; None: standard error.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
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
        """Begin a stage; return a function to call with each number of completed units."""
        self._close()
        if not shows_bars(self._stream):
            return _Lines(stage, total, unit, stream=self._stream, clock=self._clock).advance
        from tqdm import tqdm  # noqa: PLC0415

        self._bar = tqdm(total=total, desc=stage, unit=unit, unit_scale=True, file=self._stream)
        return self._bar.update

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@final
class _Lines:
    """Writes a line on one stage once a minute."""

    def __init__(
        self, stage: str, total: int, unit: str, *, stream: TextIO, clock: Callable[[], float]
    ) -> None:
        self._stage = stage
        self._total = total
        self._unit = unit
        self._stream = stream
        self._clock = clock
        self._done = 0
        self._begun = self._written = clock()

    def advance(self, amount: int) -> None:
        """Add to the progress, and print a line if it is due."""
        self._done += amount
        now = self._clock()
        if now - self._written < LINE_INTERVAL_S:
            return
        from tqdm import tqdm  # noqa: PLC0415

        self._written = now
        line: str = tqdm.format_meter(
            self._done, self._total, now - self._begun,
            ncols=0, prefix=self._stage, unit=self._unit, unit_scale=True,
        )  # fmt: skip
        print(line, file=self._stream, flush=True)
