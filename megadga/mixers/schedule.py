"""Weights as a function of the step: stages, interpolation, replay of another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.mixers.base import MixtureState, Observed, StepNeeds, StepNumber
from megadga.mixers.weights import Weights
from megadga.section import Count, Section, Whole


class Stage(Section):
    """Weights from a step on."""

    step: Whole
    """Optimizer steps completed when the stage begins; the first is 0, the others ascend."""
    weights: Weights
    """The mixture, written as the weights of type static."""


class Replay(Section):
    """The weights of another run, after each of its updates."""

    metrics: Path
    """That run's metrics.jsonl, relative to this file."""
    initial: Weights = "uniform"
    """What that run began with, which its metrics do not tell."""


class ScheduleMixing(Section):
    """Weights that are known beforehand, as a function of the step."""

    type: Literal["schedule"]
    """How the domains' weights are set."""
    interval: Count = 1
    """Optimizer steps between looks at the schedule, at least 1. Batches are read ahead only up to
    the next one."""
    stages: tuple[Stage, ...] | None = None
    """[{step, weights}, ...] from step 0 on; null: `csv` or `replay` says it."""
    csv: Path | None = None
    """Table with a column `step` and one of masses for each domain, a line a stage, relative to
    this file; null: `stages` or `replay` says it."""
    replay: Replay | None = None
    """Run whose weights are repeated: {metrics, initial}; null: `stages` or `csv` says it."""
    between: Literal["constant", "linear"] = "constant"
    """From one stage to the next; constant: a leap; linear: a line, in proportion to the steps."""


Between = Literal["constant", "linear"]


@final
@dataclass(frozen=True, eq=False)
class Schedule:
    """Stages of weights, each from a step on.

    After ``s`` optimizer steps the mixture is that of the last stage with ``step <= s``
    (``constant``), or lies on the line to the next one, in proportion to the steps (``linear``).
    After the last stage it stays. Changes take effect at updates: with ``interval`` steps between
    them, at the first update on or after a stage's step.

    Attributes:
        steps: Optimizer steps completed when each stage begins, ascending from 0, shape ``(N,)``.
        weights: A distribution for each stage, shape ``(N, K)``.
        between: What happens between two stages.

    Raises:
        ValueError: If the stages are none, out of order, or no distributions.
    """

    steps: IntArray
    weights: FloatArray
    between: Between = "constant"

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.steps.shape != self.weights.shape[:1]:
            raise ValueError(
                "stages: expected steps of shape (N,) and weights of shape (N, K), "
                f"found {self.steps.shape} and {self.weights.shape}"
            )
        if self.steps.size == 0 or self.steps[0] != 0:
            found = self.steps[0] if self.steps.size else "none"
            raise ValueError(f"stages: expected the first at step 0, found {found}")
        if (np.diff(self.steps) <= 0).any():
            at = int(np.argmax(np.diff(self.steps) <= 0))
            raise ValueError(
                "stages: expected ascending steps, "
                f"found {self.steps[at + 1]} after {self.steps[at]}"
            )
        for step, weights in zip(self.steps, self.weights, strict=True):
            check_simplex(weights, name=f"stage at step {step}")
        if self.between not in ("constant", "linear"):
            raise ValueError(f"between: expected constant or linear, found {self.between!r}")

    @property
    def observes(self) -> StepNeeds:
        """How far training is."""
        return StepNeeds()

    def at(self, step: int) -> FloatArray:
        """Return the mixture after ``step >= 0`` optimizer steps, shape ``(K,)``."""
        stage = int(np.searchsorted(self.steps, step, side="right")) - 1
        if self.between == "constant" or stage + 1 == self.steps.size:
            return self.weights[stage].astype(np.float64)
        share = (step - self.steps[stage]) / (self.steps[stage + 1] - self.steps[stage])
        return (1.0 - share) * self.weights[stage] + share * self.weights[stage + 1]

    def init(self) -> MixtureState:
        """Return the mixture of the first stage."""
        weights = self.at(0)
        return MixtureState(weights, weights.copy(), num_updates=0, num_skipped=0)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the mixture after the step that was observed."""
        assert isinstance(observed, StepNumber)
        weights = self.at(observed.step)
        return replace(
            state,
            weights=weights,
            averaged_weights=weights.copy(),
            num_updates=state.num_updates + 1,
        )


def schedule_of_columns(
    steps: IntArray,
    columns: Mapping[str, FloatArray],
    names: Sequence[str],
    *,
    between: Between = "constant",
) -> Schedule:
    """Return the schedule that a table holds: a line a stage, a column a domain.

    Args:
        steps: The column of steps, shape ``(N,)``.
        columns: By domain, any masses: each line is normalised. Every domain must have its column,
            and there may be no other. Shapes ``(N,)``.
        names: The domains in the order of the weights, ``K`` of them.
        between: See `Schedule`.

    Raises:
        ValueError: If columns are unknown or missing, or a line is no mixture.
    """
    unknown, missing = sorted(columns.keys() - set(names)), sorted(set(names) - columns.keys())
    if unknown or missing:
        raise ValueError(
            f"columns: expected exactly the {len(names)} domains, found "
            f"{', '.join(unknown) or 'none'} unknown and {', '.join(missing) or 'none'} missing"
        )
    masses = np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1)
    totals = masses.sum(axis=1)
    if (wrong := ~((masses >= 0.0).all(axis=1) & (totals > 0.0) & (totals < np.inf))).any():
        line = int(np.argmax(wrong))
        raise ValueError(
            f"line {line}: expected finite masses >= 0 and one > 0, found {masses[line]}"
        )
    return Schedule(steps, masses / totals[:, np.newaxis], between)


def replay(initial: FloatArray, steps: IntArray, weights: FloatArray) -> Schedule:
    """Return the schedule that repeats the weights of another run.

    Args:
        initial: What that run began with, shape ``(K,)``.
        steps: Optimizer steps after which its updates were logged, ascending, shape ``(N,)``.
        weights: Averaged weights after each, shape ``(N, K)``.

    Raises:
        ValueError: If they are no schedule.
    """
    return Schedule(
        np.concatenate(([0], steps)).astype(np.int64),
        np.concatenate((initial[np.newaxis], weights)),
    )
