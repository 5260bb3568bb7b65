"""Measured alignments over the steps of a run, from its records."""

from dataclasses import dataclass

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.history import averaged_weights, is_revised
from megadga.report.records import Record, RunRecords, names_at, numbers_by_name

ONLY_SET = "the specific set"
"""Stands for the name of a single specific set, which metrics do not have."""


@dataclass(frozen=True)
class AlignmentHistory:
    """Measured alignments over the course of a run.

    Attributes:
        names: The ``K`` domains, or the basis distributions.
        steps: Optimizer steps after which each was measured, shape ``(updates,)``.
        alignments: Shape ``(updates, K)``.
        standard_errors: Of the alignments, same shape; NaN where an update has none.
        weights: Averaged weights after the last update, shape ``(K,)``.
    """

    names: tuple[str, ...]
    steps: IntArray
    alignments: FloatArray
    standard_errors: FloatArray
    weights: FloatArray


def has_alignments(update: Record) -> bool:
    """Return whether an update has alignments, with one specific set or several."""
    return "alignments" in update or "target_alignments" in update


def read_alignments(run: RunRecords) -> dict[str, AlignmentHistory]:
    """Return the alignments in a run's metrics, for each specific set.

    Returns:
        Histories by the sets' names; a single one is ``ONLY_SET``.

    Raises:
        ConfigError: If there are none, or records are inconsistent.
    """
    updates = [one for one in run.of("update") if has_alignments(one)]
    if not updates:
        raise ConfigError(f"{run.path}: expected an update with alignments, found none")
    if "alignments" in updates[0]:
        return {ONLY_SET: _history(run, updates)}
    targets = names_at(run.path, updates[0], "target_alignments")
    return {name: _history(run, updates, name) for name in targets}


def _history(
    run: RunRecords, updates: list[Record], target: str | None = None
) -> AlignmentHistory:
    values, errors = (
        (("alignments",), ("standard_errors",))
        if target is None
        else (("target_alignments", target), ("target_standard_errors", target))
    )
    alignments = [numbers_by_name(run.path, update, *values) for update in updates]
    revised = is_revised(run)
    names = tuple(alignments[-1 if revised else 0])
    if revised:  # those of the domains that there are at the end
        alignments = [{name: each.get(name, np.nan) for name in names} for each in alignments]
    unknown = dict.fromkeys(names, np.nan)
    known = [
        numbers_by_name(run.path, update, *errors) if errors[0] in update else unknown
        for update in updates
    ]
    if revised:
        known = [{name: each.get(name, np.nan) for name in names} for each in known]
    for update, *tables in zip(updates, alignments, known, strict=True):
        for found in tables:
            if found.keys() != set(names):
                raise ConfigError(
                    f"{run.path}: update of step {update['step']}: expected the names "
                    f"{', '.join(names)}, found {', '.join(found)}"
                )
    weights = averaged_weights(run.path, updates[-1], names)
    if weights.keys() != set(names):
        raise ConfigError(
            f"{run.path}: update of step {updates[-1]['step']}: expected weights of "
            f"{', '.join(names)}, found those of {', '.join(weights)}"
        )
    return AlignmentHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        _table(alignments, names),
        _table(known, names),
        _table([weights], names)[0],
    )


def _table(records: list[dict[str, float]], names: tuple[str, ...]) -> FloatArray:
    return np.array([[record[name] for name in names] for record in records], dtype=np.float64)
