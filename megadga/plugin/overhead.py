"""How long measuring takes beside training. Knows no engine."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final


@dataclass(frozen=True)
class ObservedOverhead:
    """Where the time since the last update went.

    Attributes:
        probe_s: Seconds that measuring took, in flight included where plain steps tell how much.
        share: Those, divided by the seconds that training took; None before the first step.
    """

    probe_s: float
    share: float | None


@final
class ProbeClock:
    """Tells measuring from training, from one update to the next.

    Args:
        now: Seconds since any fixed moment.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._step_began: float | None = None
        self._plain_s: list[float] = []
        self._watched_s: list[float] = []
        self._probing_s = 0.0

    def begin_step(self) -> None:
        """A batch was handed out."""
        self._step_began = self._now()

    def end_step(self, *, watched: bool) -> None:
        """It has been trained on.

        Args:
            watched: Whether alignments were measured on it meanwhile.
        """
        if self._step_began is not None:
            steps = self._watched_s if watched else self._plain_s
            steps.append(self._now() - self._step_began)
        self._step_began = None

    @contextmanager
    def probing(self) -> Generator[None]:
        """Count what is done inside as measuring."""
        began = self._now()
        try:
            yield
        finally:
            self._probing_s += self._now() - began

    def take(self) -> ObservedOverhead:
        """Return what was counted, and count from zero again."""
        plain, watched = self._plain_s, self._watched_s
        surplus = 0.0
        if plain and watched:
            surplus = max(0.0, sum(watched) - len(watched) * sum(plain) / len(plain))
        probe_s = self._probing_s + surplus
        training_s = sum(plain) + sum(watched) - surplus
        self._plain_s, self._watched_s, self._probing_s = [], [], 0.0
        return ObservedOverhead(probe_s, probe_s / training_s if training_s else None)
