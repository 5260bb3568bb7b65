"""Rows as tables of text."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from .case import Row, Section

_LABELS = ("model", "ranks", "stage", "probe")
_COLUMNS: Mapping[Section, tuple[str, ...]] = {
    "cost": (
        *_LABELS,
        "seconds_per_probe_sequence",
        "seconds_per_training_sequence",
        "ratio",
        "ratio_with_specific",
    ),
    "memory": (*_LABELS, "peak_bytes", "training_peak_bytes", "extra_in_parameters"),
    "communication": (*_LABELS, "communicated_bytes", "deepspeed_bytes", "training_bytes"),
    "domains": (*_LABELS, "num_domains", "seconds_per_update", "ratio_to_fewest"),
}


def merged(rows: Mapping[Section, Sequence[Row]]) -> list[Row]:
    """Return one row a probe on an engine, with what the sections have found of it."""
    found: dict[tuple[object, ...], Row] = {}
    for section in ("cost", "memory", "communication"):
        for row in rows[section]:
            key = tuple(row[label] for label in _LABELS)
            found[key] = found.get(key, {}) | row
    return list(found.values())


def show(rows: Mapping[Section, Sequence[Row]], bars: Sequence[Row]) -> None:
    """Print a table a section, and how the bars were met."""
    for section, columns in _COLUMNS.items():
        if rows[section]:
            print(f"{section}\n{table(rows[section], columns)}\n")
    for bar in bars:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{verdict:>6}  {bar['bar']}: at most {bar['at_most']:g}, found {bar['found']:.3f}")


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return rows as lines of aligned cells under titles; what a row lacks stays empty."""
    titles = [column.replace("_", " ") for column in columns]
    lines = [titles, *([_cell(row.get(column)) for column in columns] for row in rows)]
    align = ("right",) * len(columns)
    return tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=align)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)
