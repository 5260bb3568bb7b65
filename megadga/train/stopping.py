"""Whether the ranks stop before the run is over, decided together. Knows no signals."""

from collections.abc import Callable
from typing import final


@final
class AgreedStop:
    """Brings the ranks to one answer, as a signal reaches them at different steps, or only one.

    It makes no sum of its own: what it adds travels with a sum that every step makes anyway.

    Args:
        requested: Whether this rank was asked to stop.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested
        self._agreed = False

    def own(self) -> float:
        """Return what this rank adds to a sum over the ranks: 1 if it was asked, else 0."""
        return float(self._requested())

    def take_in(self, total: float) -> None:
        """Learn the sum of what every rank added, which is the same number on all."""
        self._agreed = self._agreed or total > 0.0

    def agreed(self) -> bool:
        """Return whether any rank had been asked at the last sum; the same on every rank."""
        return self._agreed
