"""Draws the domains' alignments over a run, from its metrics file alone. Knows no training."""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.lines import (
    MAX_LINES,
    Axes,
    frame,
    label_ends,
    line_style,
    new_panels,
    save,
)
from megadga.report.records import Record, averaged_weights, by_name, names_at, read_records


@dataclass(frozen=True)
class AlignmentHistory:
    """What updates have measured.

    Attributes:
        names: The domains, ``K`` of them; or the basis distributions that were measured.
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
    """Tell whether an update measured alignments, with one specific set or with several."""
    return "alignments" in update or "target_alignments" in update


def read_alignments(metrics: Path) -> dict[str, AlignmentHistory]:
    """Return the alignments that a run's metrics tell of, with each specific set.

    Returns:
        Histories by the sets' names; a single one, which metrics do not name, is ``the specific
        set``.

    Raises:
        ConfigError: If no update measured any, or records say something else than they should.
    """
    updates = [one for one in read_records(metrics, "update") if has_alignments(one)]
    if not updates:
        raise ConfigError(f"{metrics}: expected an update with alignments, found none")
    if "alignments" in updates[0]:
        return {"the specific set": _history(metrics, updates)}
    targets = names_at(metrics, updates[0], "target_alignments")
    return {name: _history(metrics, updates, name) for name in targets}


def _history(metrics: Path, updates: list[Record], target: str | None = None) -> AlignmentHistory:
    values, errors = (
        (("alignments",), ("standard_errors",))
        if target is None
        else (("target_alignments", target), ("target_standard_errors", target))
    )
    alignments = [by_name(metrics, update, *values) for update in updates]
    names = tuple(alignments[0])
    unknown = dict.fromkeys(names, np.nan)
    known = [
        by_name(metrics, update, *errors) if errors[0] in update else unknown for update in updates
    ]
    for update, *tables in zip(updates, alignments, known, strict=True):
        for found in tables:
            if found.keys() != set(names):
                raise ConfigError(
                    f"{metrics}: update of step {update['step']}: expected the names "
                    f"{', '.join(names)}, found {', '.join(found)}"
                )
    weights = averaged_weights(metrics, updates[-1], names)
    if weights.keys() != set(names):
        raise ConfigError(
            f"{metrics}: update of step {updates[-1]['step']}: expected weights of "
            f"{', '.join(names)}, found those of {', '.join(weights)}"
        )
    return AlignmentHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        _table(alignments, names),
        _table(known, names),
        _table([weights], names)[0],
    )


def plot_alignments(metrics: Path, image: Path) -> None:
    """Draw the alignments of the heaviest domains over the steps, within a standard error.

    Args:
        metrics: A run's ``metrics.jsonl``, finished or not, with at least one update.
        image: Where to write a PNG, with a panel a specific set.

    Raises:
        ConfigError: If the metrics hold no alignments.
    """
    histories = read_alignments(metrics)
    figure, panels = new_panels(len(histories))
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        _draw(axes, name, history)
    save(figure, image)


def _draw(axes: Axes, target: str, history: AlignmentHistory) -> None:
    heaviest = np.argsort(-history.weights, kind="stable")[:MAX_LINES]
    names = [history.names[int(domain)] for domain in heaviest]
    styles = [line_style(name, history.names) for name in names]
    for domain, (colour, dashes) in zip(heaviest, styles, strict=True):
        values, errors = history.alignments[:, domain], history.standard_errors[:, domain]
        axes.plot(
            history.steps, values, dashes, color=colour, linewidth=1.5, marker=".", markevery=[-1]
        )
        axes.fill_between(
            history.steps, values - errors, values + errors, color=colour, alpha=0.2, linewidth=0.0
        )
    title = f"Alignments with {target}, within a standard error"
    if len(heaviest) < len(history.names):
        title = f"{title}: the {len(heaviest)} heaviest domains"
    frame(axes, title=title, quantity="alignment", last_step=int(history.steps[-1]))
    axes.set_ylim(*axes.get_ylim())
    last: list[float] = history.alignments[-1, heaviest].tolist()
    labels = [f"{name}  {value:.3g}" for name, value in zip(names, last, strict=True)]
    label_ends(axes, labels, last, [colour for colour, _ in styles])


def _table(records: list[dict[str, float]], names: tuple[str, ...]) -> FloatArray:
    return np.array([[record[name] for name in names] for record in records], dtype=np.float64)
