"""Pulls harder to the prior while the model forgets what it was. Knows one loss, no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray

_BEST = "best_general_loss"
_ON = "general_guard"

Memory = Mapping[str, FloatArray]


@dataclass(frozen=True)
class GuardReading:
    """What a guard remembers.

    Attributes:
        is_on: Whether the last update that was applied was pulled by it.
        best: The least general loss that updates saw, nats a token; infinite before the first.
    """

    is_on: bool
    best: float


@final
@dataclass(frozen=True)
class GeneralGuard:
    """A stronger pull while the mean validation loss over the domains is above its best.

    With ``L`` that loss at the last evaluation before an update, and ``rho0`` the pull that a rule
    has anyway,

        best <- min(best, L)
        rho  =  max(rho0, pull)  if L > best + max_rise,  else rho0

    A loss that is not a number is above any other. Before the first evaluation nothing is.

    Attributes:
        max_rise: Nats a token, finite, above 0.
        pull: Share of the prior in an update meanwhile, in ``(0, 1]``.

    Raises:
        ValueError: If a value is out of range.
    """

    max_rise: float
    pull: float

    def __post_init__(self) -> None:
        if not 0.0 < self.max_rise < math.inf:
            raise ValueError(f"max_rise: expected a finite number > 0, found {self.max_rise}")
        if not 0.0 < self.pull <= 1.0:
            raise ValueError(f"pull: expected 0 < pull <= 1, found {self.pull}")

    def first(self) -> Memory:
        """Return the memory before any evaluation."""
        return {_BEST: np.array([math.inf]), _ON: np.zeros(1)}

    def watch(self, memory: Memory, loss: float | None) -> Memory:
        """Return the memory that has taken in the last evaluation; None: there was none."""
        return memory if loss is None else {**memory, _BEST: np.fmin(memory[_BEST], loss)}

    def apply(self, memory: Memory, loss: float | None, prior_pull: float) -> tuple[Memory, float]:
        """Return the memory after an update that is applied, and rho of that update.

        Args:
            memory: After `watch` has taken in the loss.
            loss: Of the last evaluation; None: there was none.
            prior_pull: rho0, in ``[0, 1]``.
        """
        best = float(memory[_BEST][0])
        is_on = loss is not None and not loss <= best + self.max_rise
        pull = max(prior_pull, self.pull) if is_on else prior_pull
        return {**memory, _ON: np.array([float(is_on)])}, pull


def read_guard(memory: Memory) -> GuardReading | None:
    """Return what a guard remembers in the memory of a rule; None if the rule has none."""
    if _ON not in memory:
        return None
    return GuardReading(bool(memory[_ON][0]), float(memory[_BEST][0]))
