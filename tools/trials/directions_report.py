"""What a trial of directions has shown, as tables, as a record and as a picture.

Numbers of a third of a run are over its updates and all domains together.
"""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megadga.arrays import FloatArray
from megadga.mixers.base import Scheduler
from trials.agreement import (
    PERIODS,
    Agreement,
    Update,
    agreement,
    alignments_of,
    markdown_table,
    periods,
    replay,
    total_variation,
)
from trials.directions import ANOTHER_PROBE, age_name
from trials.training import AGES, LOW_RANKS, RANKS, Trained

_LOW_RANKS = tuple(LOW_RANKS)
_AGES = tuple(map(age_name, AGES))
_MISSING = "-"


def weights_of(trained: Trained, scheduler: Scheduler) -> dict[str, FloatArray]:
    """Replay every way that measured all updates; shape ``(updates, K)``, ``full`` first."""
    reference = np.array([update.reference for update in trained.updates])
    weights = {"full": replay(scheduler, reference)}
    for name in (*_LOW_RANKS, ANOTHER_PROBE):
        found = alignments_of(trained.updates, name)
        if found is not None:
            weights[name] = replay(scheduler, found)
    return weights


def tables(trained: Trained, weights: dict[str, FloatArray]) -> str:
    """Return all tables in Markdown, each with a line that says what it shows."""
    updates, others = trained.updates, (*_LOW_RANKS, ANOTHER_PROBE)
    shown = {
        "Deviation of the alignments from those along the whole gradient, root mean square "
        "(largest), in standard errors of the alignment": _of_periods(updates, others, _in_errors),
        "The same in units of the update's largest alignment": _of_periods(
            updates, others, _in_scale
        ),
        "Energy |d|^2 / |v|^2 of the direction (as the probe estimates it), medians": _energies(
            trained
        ),
        "Directions measured some steps before, on specific sequences of their own (0: in the "
        "same step): correlation with the fresh alignments over the domains, median (root mean "
        "square deviation in standard errors)": _of_periods(
            updates, (*_AGES, ANOTHER_PROBE), _correlated
        ),
        "Mass by which the weights that these alignments alone would have made differ from those "
        "of the whole gradient (total variation), largest": _variations(weights),
        "Averaged weights after the last update": _final_weights(trained.names, weights),
    }
    return "\n".join(f"{title}:\n\n{table}" for title, table in shown.items())


def record(trained: Trained, weights: dict[str, FloatArray]) -> dict[str, Any]:
    """Return everything that was measured, JSON-shaped."""
    triples = zip(trained.updates, trained.kept, trained.losses, strict=True)
    return {
        "domains": list(trained.names),
        "updates": [
            {
                "step": update.step,
                "loss": loss,
                "alignments": update.reference.tolist(),
                "standard_errors": update.standard_errors.tolist(),
                "others": {name: found.tolist() for name, found in update.others.items()},
                "kept": {name: asdict(each) for name, each in kept.items()},
            }
            for update, kept, loss in triples
        ],
        "averaged_weights": {name: found.tolist() for name, found in weights.items()},
    }


def draw(trained: Trained, weights: dict[str, FloatArray], image: Path) -> None:
    """Write a PNG: deviations by rank, correlations by age, and distances of the weights."""
    figure = Figure(figsize=(15.0, 5.0), dpi=120)
    left, middle, right = figure.subplots(1, 3)
    steps = [update.step for update in trained.updates]
    shown = {name: f"C{place}" for place, name in enumerate(map(_rank_name, RANKS))}
    for name, colour in {**shown, ANOTHER_PROBE: "black"}.items():
        own = [agreement([update], name) for update in trained.updates]
        errors = [np.nan if each is None else each.rms_in_errors for each in own]
        left.plot(steps, errors, color=colour, label=name)
        variation = total_variation(weights[name], weights["full"])
        right.plot(steps, np.maximum(variation, 1e-9), color=colour, label=name)
    for place, (period, updates) in enumerate(periods(trained.updates).items()):
        found = [agreement(updates, name) for name in _AGES]
        values = [np.nan if each is None else each.correlation for each in found]
        middle.plot(AGES, values, marker="o", color=f"C{place}", label=period)
        if (yardstick := agreement(updates, ANOTHER_PROBE)) is not None:
            middle.axhline(yardstick.correlation, color=f"C{place}", linestyle=":")
    _frame(left, "RMS deviation in standard errors", "optimizer step", log=True)
    _frame(middle, "Correlation with fresh alignments (dotted: another probe)", "age in steps")
    _frame(right, "Distance of the weights in total variation", "optimizer step", log=True)
    middle.set_xscale("symlog", linthresh=1.0)
    middle.set_xticks(AGES, list(map(str, AGES)))
    figure.tight_layout()
    figure.savefig(image, format="png")


def _rank_name(rank: int) -> str:
    return f"rank {rank}"


def _frame(axes: Axes, title: str, label: str, *, log: bool = False) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(label)
    if log:
        axes.set_yscale("log")
    axes.grid(color="#e0e0e0", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _in_errors(found: Agreement) -> str:
    return f"{found.rms_in_errors:.2g} ({found.largest_in_errors:.2g})"


def _in_scale(found: Agreement) -> str:
    return f"{found.rms_in_scale:.1e} ({found.largest_in_scale:.1e})"


def _correlated(found: Agreement) -> str:
    return f"{found.correlation:.3f} ({found.rms_in_errors:.2g})"


def _of_periods(
    updates: Sequence[Update], names: Sequence[str], cell: Callable[[Agreement], str]
) -> str:
    rows: list[list[str]] = []
    for name in names:
        found = [agreement(part, name) for part in periods(updates).values()]
        rows.append([name, *(_MISSING if each is None else cell(each) for each in found)])
    return markdown_table(("direction", *PERIODS), rows)


def _energies(trained: Trained) -> str:
    kept = dict(zip(map(id, trained.updates), trained.kept, strict=True))
    rows: list[list[str]] = []
    for name in _LOW_RANKS:
        cells: list[str] = []
        for updates in periods(trained.updates).values():
            held = [kept[id(update)][name] for update in updates]
            energy = np.median([each.energy for each in held]) if held else np.nan
            estimate = np.median([each.estimated_energy for each in held]) if held else np.nan
            cells.append(f"{energy:.4f} ({estimate:.4f})")
        numbers = np.mean([each[name].numbers for each in trained.kept])
        rows.append([name, *cells, f"{numbers:.1%}"])
    return markdown_table(("direction", *PERIODS, "numbers kept"), rows)


def _variations(weights: dict[str, FloatArray]) -> str:
    rows: list[list[str]] = []
    for name in list(weights)[1:]:
        found = np.array_split(total_variation(weights[name], weights["full"]), len(PERIODS))
        cells = [f"{part.max():.1e}" if part.size else _MISSING for part in found]
        rows.append([name, *cells, f"{total_variation(weights[name], weights['full'])[-1]:.1e}"])
    return markdown_table(("direction", *PERIODS, "last update"), rows)


def _final_weights(names: Sequence[str], weights: dict[str, FloatArray]) -> str:
    order: list[int] = np.argsort(-weights["full"][-1], kind="stable").tolist()
    rows = [
        [names[domain], *(f"{found[-1, domain]:.4f}" for found in weights.values())]
        for domain in order
    ]
    return markdown_table(("domain", *weights), rows)
