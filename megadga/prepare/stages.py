"""How far long work has come: the seam between work and what shows it. Knows neither."""

from collections.abc import Callable
from typing import Protocol


class Stages(Protocol):
    """Shows progress, stage by stage."""

    def __call__(self, stage: str, total: int, /) -> Callable[[int], object]:
        """Begin a stage of ``total`` units; return what is called with each number done."""
        ...


def unseen(_stage: str, _total: int, /) -> Callable[[int], object]:
    """Show nothing."""
    return lambda _: None
