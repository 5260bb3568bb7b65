"""From a schedule as it is written to weights by step. Knows no measurement."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.build.weights import RunWeights
from megadga.config.rules import Replay, ScheduleMixing
from megadga.errors import ConfigError
from megadga.mixing.schedule import Between, Schedule, replay, schedule_of_columns
from megadga.report.history import read_weights
from megadga.shards.domain import Domain


def make_schedule(mixing: ScheduleMixing, weights: RunWeights) -> Schedule:
    """Return the schedule that a section has, or that the file holds which it names.

    Args:
        mixing: The section.
        weights: Makes weights over the run's domains.

    Raises:
        ConfigError: If weights do not name exactly the domains, or a file holds no schedule.
    """
    if mixing.replay is not None:
        path = ("mixing", "replay", "initial")
        initial = weights.of(path, mixing.replay.initial)
        return _replayed(mixing.replay, initial, weights.domains)
    if mixing.csv is not None:
        return _of_table(mixing.csv, weights.domains, mixing.between)
    stages = mixing.stages or ()
    rows = [
        weights.of(("mixing", "stages", index, "weights"), stage.weights)
        for index, stage in enumerate(stages)
    ]
    steps = np.array([stage.step for stage in stages], dtype=np.int64)
    return Schedule(steps, np.stack(rows), mixing.between)


def _replayed(section: Replay, initial: FloatArray, domains: Sequence[Domain]) -> Schedule:
    history = read_weights(section.metrics)
    names = tuple(domain.name for domain in domains)
    if history.names != names:
        raise ConfigError(
            f"{section.metrics}: expected the weights of this run's {len(names)} domains, in "
            f"their order, found {len(history.names)}: {', '.join(history.names[:5])} ..."
        )
    try:
        return replay(initial, history.steps, history.weights)
    except ValueError as error:
        raise ConfigError(f"{section.metrics}: {error}") from None


def _of_table(path: Path, domains: Sequence[Domain], between: Between) -> Schedule:
    columns = _read_columns(path)
    steps = columns.pop("step")
    if not (np.isfinite(steps) & (steps == np.floor(steps))).all():
        raise ConfigError(f"{path}: step: expected whole numbers, found {steps.tolist()[:5]}")
    names = [domain.name for domain in domains]
    try:
        return schedule_of_columns(steps.astype(np.int64), columns, names, between=between)
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
