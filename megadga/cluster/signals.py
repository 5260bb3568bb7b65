"""Signals that a process takes for a while instead of dying of them. Knows no wishes."""

import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def taken(
    numbers: Sequence[signal.Signals], take: Callable[[int, FrameType | None], None]
) -> Generator[None]:
    """Have ``take`` called for signals; at the end they do what they did before.

    On the main thread, as Python has it.
    """
    before: dict[signal.Signals, Any] = {}
    try:
        before |= {number: signal.signal(number, take) for number in numbers}
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
