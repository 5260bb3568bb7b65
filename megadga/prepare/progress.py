"""How far long work has come: the seam between work and what shows it. Knows neither."""

from collections.abc import Callable
from typing import Protocol


class Stages(Protocol):
    """Shows progress, stage by stage."""

    def __call__(self, stage: str, total: int, unit: str, /) -> Callable[[int], object]:
        """Begin a stage.

        Args:
            stage: What is done.
            total: Units in all.
            unit: What is counted: ``"B"`` for bytes of input, else a word with a space before it.

        Returns:
            What is called with each number of units done.
        """
        ...


def unseen(_stage: str, _total: int, _unit: str, /) -> Callable[[int], object]:
    """Show nothing."""
    return lambda _: None
