"""Weights as a function of the step: stages, interpolation, replay of another run."""

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.errors import ConfigError
from megadga.mixers.base import MixtureState, Observed, StepNeeds, StepNumber
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.weights import Weights
from megadga.section import (
    ConfigIssue,
    KeyPath,
    NonNegativeInt,
    PositiveInt,
    Section,
    format_value,
)


class Stage(Section):
    """Weights from a step on."""

    step: NonNegativeInt
    """Optimizer steps completed when the stage begins; the first is 0, the others ascend."""
    weights: Weights
    """The mixture, written as the weights of type static."""


class Replay(Section):
    """The weights of another run, after each of its updates."""

    metrics: Path
    """That run's metrics.jsonl, relative to this file."""
    initial: Weights = "uniform"
    """What that run began with, which its metrics do not tell."""


class ScheduleOptions(RuleOptions):
    """Weights that are known beforehand, as a function of the step."""

    type: Literal["schedule"]
    """How the domains' weights are set."""
    interval: PositiveInt = 1
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
    """Between two stages; constant: a step change; linear: interpolation by the step."""

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:  # noqa: ARG002
        """Yield what keeps the section from being one schedule."""
        given = [key for key in ("stages", "csv", "replay") if getattr(self, key) is not None]
        if len(given) != 1:
            expected = "exactly one of stages, csv and replay"
            yield ConfigIssue(("mixing",), expected, " and ".join(given) or "none")
            return
        if self.replay is not None and self.between == "linear":
            expected = "'constant' with mixing.replay, as weights of a run are piecewise constant"
            yield ConfigIssue(("mixing", "between"), expected, format_value(self.between))
        if self.stages is not None:
            yield from _find_disorder([stage.step for stage in self.stages])

    def find_warnings(self, steps: int) -> Iterator[ConfigIssue]:
        """Yield stages after the end of the run."""
        for index, stage in enumerate(self.stages or ()):
            if stage.step >= steps:
                expected = f"less than training.steps ({steps}), or the stage never begins"
                yield ConfigIssue(("mixing", "stages", index, "step"), expected, str(stage.step))

    def files(self) -> Mapping[KeyPath, Path]:
        """Return the file of the table, or of the other run's metrics."""
        if self.replay is not None:
            return {("replay", "metrics"): self.replay.metrics}
        return {} if self.csv is None else {("csv",): self.csv}

    def digests(self) -> Mapping[str, str]:
        """Return the digest of the file, if there is one.

        Raises:
            ConfigError: If it cannot be read.
        """
        for path in self.files().values():
            try:
                return {"schedule": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
            except OSError as error:
                raise ConfigError(f"{path}: expected a schedule, found {error.strerror}") from None
        return {}


def _find_disorder(steps: Sequence[int]) -> Iterator[ConfigIssue]:
    if not steps:
        yield ConfigIssue(("mixing", "stages"), "at least one stage", "none")
    for index, step in enumerate(steps):
        path = ("mixing", "stages", index, "step")
        if index == 0 and step != 0:
            yield ConfigIssue(path, "0, where training begins", str(step))
        if index > 0 and step <= steps[index - 1]:
            expected = f"more than the {steps[index - 1]} of the stage before"
            yield ConfigIssue(path, expected, str(step))


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


def make_schedule(options: ScheduleOptions, context: RuleContext) -> Schedule:
    """Return the schedule that a section has, or that the file holds which it names.

    Raises:
        ConfigError: If weights do not name exactly the domains, or a file holds no schedule.
    """
    if options.replay is not None:
        initial = context.weights(("replay", "initial"), options.replay.initial)
        return _replayed(options.replay.metrics, initial, context)
    if options.csv is not None:
        return _read_schedule(options.csv, context.domains, options.between)
    stages = options.stages or ()
    rows = [
        context.weights(("stages", index, "weights"), stage.weights)
        for index, stage in enumerate(stages)
    ]
    steps = np.array([stage.step for stage in stages], dtype=np.int64)
    return Schedule(steps, np.stack(rows), options.between)


def _replayed(metrics: Path, initial: FloatArray, context: RuleContext) -> Schedule:
    history = context.read_history(metrics)
    if history.names != context.domains:
        raise ConfigError(
            f"{metrics}: expected the weights of this run's {len(context.domains)} domains, in "
            f"their order, found {len(history.names)}: {', '.join(history.names[:5])} ..."
        )
    try:
        return replay(initial, history.steps, history.weights)
    except ValueError as error:
        raise ConfigError(f"{metrics}: {error}") from None


def _read_schedule(path: Path, domains: Sequence[str], between: Between) -> Schedule:
    columns = _read_columns(path)
    steps = columns.pop("step")
    if not (np.isfinite(steps) & (steps == np.floor(steps))).all():
        raise ConfigError(f"{path}: step: expected whole numbers, found {steps.tolist()[:5]}")
    try:
        return schedule_of_columns(steps.astype(np.int64), columns, domains, between=between)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_columns(path: Path) -> dict[str, FloatArray]:
    """Return the columns of a table under what its first line calls them, `step` among them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: expected a table, found {error}") from None
    if len(set(header)) < len(header) or "step" not in header:
        raise ConfigError(
            f"{path}: expected a first line with step and each domain once, found {header[:5]}"
        )
    try:
        table = np.array([[float(cell) for cell in line] for line in lines], dtype=np.float64)
        table = table.reshape(len(lines), len(header))
    except ValueError as error:
        expected = f"lines of {len(header)} numbers"
        raise ConfigError(f"{path}: expected {expected}, found {error}") from None
    return dict(zip(header, table.T, strict=True))


RULES = (Rule(ScheduleOptions, make_schedule),)
