"""Runs of a report: their names, which differ in their seed alone, and in what others differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.report.runs import RunHistory
from megadga.run_folder.domain_log import Series

_OWN_SECTIONS = {"seed", "output", "monitor"}
"""Sections that runs of a group may differ in: but for the seed, none changes what is trained."""


@final
@dataclass(frozen=True)
class RunGroup:
    """Runs of the same configuration but for the seed.

    Attributes:
        name: That of the run if there is one, else what the names have in common.
        members: Their indices among the runs.
    """

    name: str
    members: tuple[int, ...]


def run_names(runs: Sequence[RunHistory]) -> tuple[str, ...]:
    """Return the names of runs: those of their folders, with parents where they are equal."""
    paths = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = tuple("/".join(parts[-length:]) for parts in paths)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{run.name} ({number})" for number, run in enumerate(runs, start=1))


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration with dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flat_config(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def trained_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs of one group have in common, with dotted keys."""
    own = _OWN_SECTIONS
    return {k: v for k, v in flat_config(config).items() if k.partition(".")[0] not in own}


def group_runs(runs: Sequence[RunHistory]) -> tuple[RunGroup, ...]:
    """Group runs that differ in their seed alone, in the order of their first members."""
    names = run_names(runs)
    members: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        key = json.dumps(trained_config(run.config), sort_keys=True, default=str)
        members.setdefault(key, []).append(number)
    found: list[RunGroup] = []
    for of_group in members.values():
        group = [names[number] for number in of_group]
        taken = {each.name for each in found} | (set(names) - set(group))
        found.append(RunGroup(_common_name(group, taken), tuple(of_group)))
    return tuple(found)


def _common_name(names: Sequence[str], taken: set[str]) -> str:
    if len(names) == 1:
        return names[0]
    common = _common_start(names).rstrip("0123456789").removesuffix("seed").rstrip("-_./ ")
    return common if common and common not in taken else f"{names[0]} and other seeds"


def _common_start(names: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def config_differences(runs: Sequence[RunHistory]) -> dict[str, tuple[Any, ...]]:
    """Return the values of all runs at each dotted key at which they are not all equal.

    A key that a run does not have is ``None`` there, as one that is null.
    """
    configs = [flat_config(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: tuple(config.get(key) for config in configs) for key in keys}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}


@final
@dataclass(frozen=True, eq=False)
class MeanSeries:
    """The mean over runs of the same quantity.

    Attributes:
        mean: At the steps that all runs have.
        errors: Standard errors of the mean over the runs, shape of its values; NaN for one run.
    """

    mean: Series
    errors: FloatArray


def mean_over_runs(runs: Sequence[Series]) -> MeanSeries:
    """Return the mean of series over runs, and its standard error, ``s / sqrt(n)``.

    Args:
        runs: At least one; all with the same names.
    """
    steps: IntArray = runs[0].steps
    for each in runs[1:]:
        steps = np.intersect1d(steps, each.steps)
    values = np.stack([each.values[np.isin(each.steps, steps)] for each in runs])
    errors = np.full(values.shape[1:], np.nan)
    if len(runs) > 1:
        errors = values.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return MeanSeries(Series(runs[0].names, steps, values.mean(axis=0)), errors)
