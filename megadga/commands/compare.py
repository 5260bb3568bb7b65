"""`megadga compare`: runs side by side, as a table, Markdown or JSON."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from megadga.commands.command import Command
from megadga.report.compare import TOKENS_TO_BEST, UNKNOWN, Comparison, Row, Unit, Value, compare
from megadga.report.runs import read_run

_EPILOG = """\
example:
  megadga compare runs/uniform-0 runs/uniform-1 runs/dga-0 runs/dga-1

Runs whose configurations differ in seed and output alone are one column: means, and standard
errors over the seeds. The first run's column is what others are held against. What moves during
training is compared after the last number of tokens that all runs were evaluated at; runs may be
in progress, of any mixing rule, and of different specific sets (a dash: no such value).

Tokens to the first's best are those after which a specific set's loss was as low as the best of
the first column ever was, between evaluations by interpolation. Repeated tokens are the share of
trained tokens that had been trained before.
"""
_FORMATS: dict[Unit, str] = {
    "nats": "{:.4f}",
    "tokens": "{:,.0f}",
    "step": "{:.0f}",
    "share": "{:.2%}",
    "weight": "{:.4f}",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="a run's output folder")
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    written.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _compare(options: argparse.Namespace) -> int:
    found = compare([read_run(folder) for folder in options.runs])
    if options.json:
        print(json.dumps(_values(found), indent=2))
    else:
        print("\n\n".join(_tables(found, "github" if options.markdown else "simple")))
    return 0


def _tables(found: Comparison, style: str) -> list[str]:
    """Return the tables and notes as text, without those that are empty."""
    names = [
        group.name + (f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else "")
        for group in found.groups
    ]

    def table(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
        headers = [title, *names]
        align = ("left", *("right" for _ in names))
        text = tabulate(
            rows, headers=headers, tablefmt=style, colalign=align, disable_numparse=True
        )
        return [text] if rows else []

    notes = [f"- {note}" for note in found.notes]
    weights = "weight" if len(names) == 1 else "weights that differ most"
    return [
        *table("measure", [[row.measure, *_cells(row)] for row in found.rows]),
        *table(weights, [[row.measure, *_cells(row)] for row in found.weights]),
        *table("configuration", [[each.key, *each.values] for each in found.differences]),
        "\n".join(notes),
    ]


def _cells(row: Row) -> list[str]:
    first = row.cells[0]
    relative = row.measure.startswith(TOKENS_TO_BEST) and first is not None
    return [
        _cell(row.unit, cell, first.mean if relative and first is not None else None)
        for cell in row.cells
    ]


def _cell(unit: Unit, value: Value | None, first: float | None) -> str:
    """Return a value as text, with its error, or with its ratio to the first's."""
    if value is None:
        return UNKNOWN
    text = _FORMATS[unit].format(value.mean)
    if value.standard_error is not None:
        text = f"{text} ± {_FORMATS[unit].format(value.standard_error)}"
    return text if not first else f"{text} ({value.mean / first:.2f}x)"


def _values(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON takes it."""
    groups = [
        {
            "name": group.name,
            "runs": [
                {
                    "folder": str(run.folder),
                    "seed": run.seed,
                    "step": run.last_step,
                    "total_steps": run.total_steps,
                }
                for run in group.runs
            ],
        }
        for group in found.groups
    ]
    return {
        "tokens": found.tokens,
        "groups": groups,
        "measures": [asdict(row) for row in found.rows],
        "weights": [asdict(row) for row in found.weights],
        "differences": [asdict(each) for each in found.differences],
        "notes": list(found.notes),
    }


COMPARE = Command(
    "Print runs side by side: losses, tokens to a loss, weights, repetition and cost.",
    _add_options,
    _compare,
    epilog=_EPILOG,
)
