"""Records of checks as a page of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .setting import Row

_INTRODUCTION = """\
# On a GPU

<!-- Written by `make gpu-report` from docs/gpu/*.json. -->

`make gpu-check` checks megadga on a machine with CUDA: exactness of every probe against float64,
no trace and resuming to the bit, speed, memory, a training run. `make gpu-kit` collects what a
bare machine needs for it; `tools/gpu_check.py --help` says how.
"""
_NOTHING = """
Nothing has been measured on a GPU yet: there is no record in `docs/gpu/`. All figures elsewhere in
these pages are from CPUs.
"""
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "inner products": ("precision", "elements", "error"),
    "exactness": ("ranks", "stage", "precision", "probe", "error", "left_out"),
    "no trace": ("stage", "precision", "probe", "steps", "equal"),
    "resuming": ("stage", "precision", "probe", "steps", "equal"),
    "speed": (
        *("model", "sequence_length", "micro_batch", "stage", "compiled", "variant"),
        *("tokens_per_s", "mfu", "ratio_to_plain", "overhead", "peak_bytes"),
    ),
    "probe": (
        *("model", "sequence_length", "micro_batch", "stage", "compiled", "probe"),
        *("ratio", "ratio_with_specific"),
    ),
    "constants": (
        *("device", "matmul_flops", "attention_flops", "memory_bandwidth"),
        "seconds_per_operation",
    ),
    "memory": ("model", "probe", "training_peak_bytes", "peak_bytes", "extra_in_parameters"),
    "profile": ("model", "kernels", "span_ms", "busy_ms", "busy_share"),
    "training": ("run", "step", "loss", "specific", "general", "tokens_per_s", "overhead"),
}
_NOTES: Mapping[str, str] = {
    "inner products": "Largest error of 8 sequences', by the kernel, against float64: of the sum "
    "of the products without their signs.",
    "exactness": "Largest deviation of an alignment, of |g||d|; `left out`: what the factors of a "
    "low-rank direction leave out, of |g||v|.",
    "no trace": "Losses of every step and parameters at the end against training without a probe, "
    "under SDPA's flash kernel and deterministic algorithms.",
    "resuming": "Losses, gradient norms, alignments, weights and evaluations of a run that was "
    "stopped halfway and resumed, against one that never stopped.",
    "speed": "One rank's share of a node of eight: 32 sequences per step, K = 64, T_r = 100. "
    "Utilisation counts 6 N + 12 L D S FLOPs a token against the data sheet's peak. `overhead`: "
    "an update's time over that of T_r steps. Peak memory is beyond what engines hold.",
    "probe": "Time of a sequence in a probe over one in training; in flight, of a step with an "
    "update over one without.",
    "constants": "FLOP/s, bytes per second and seconds that explain timed passes best; "
    "`megadga plan --constants docs/gpu/NAME.json` takes them.",
    "training": "The 125m model on real text: DGA and uniform weights, intervals in turns.",
}


def document(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        records: What ``gpu.json`` of each check said, by name.
    """
    if not records:
        return _INTRODUCTION + _NOTHING
    return _INTRODUCTION + "".join(_section(name, found) for name, found in records.items())


def _section(name: str, record: Mapping[str, Any]) -> str:
    stages: Mapping[str, Mapping[str, Any]] = record["stages"]
    rows = [row for stage in stages.values() for row in stage["rows"]]
    parts = [f"\n## {name}\n", *_head(record, rows)]
    parts += ["\n### Expected\n", *_expected(record["expected"])]
    parts += ["\n### Stages\n", *_stages(stages)]
    for check, columns in _COLUMNS.items():
        own = [row for row in rows if row["check"] == check]
        if own:
            parts += [f"\n### {check.capitalize()}\n", f"\n{_NOTES[check]}\n"][
                : 1 + (check in _NOTES)
            ]
            parts += _table(columns, own)
    return "".join(parts)


def _head(record: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    found: Row = {}
    for row in rows:
        if row["check"] in ("versions", "device", "nccl", "matmul"):
            found |= {f"{row['check']} {key}": value for key, value in row.items()}
    yield f"\nCommit {record['commit']}, {record['date']}, `{record['command']}`.\n\n"
    for key, value in found.items():
        if not key.endswith(" check"):
            yield f"- {key.removeprefix('versions ')}: {_cell(value)}\n"


def _expected(verdicts: Sequence[Row]) -> Iterator[str]:
    words = {None: "not measured", True: "met", False: "**missed**"}
    rows = [
        {
            "what": each["what"],
            "expected": f"{each['relation']} {each['limit']:g}",
            "found": each["found"],
            "": words[each["met"]],
        }
        for each in verdicts
    ]
    return _table(("what", "expected", "found", ""), rows)


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        {
            "stage": name,
            "status": stage["status"],
            "seconds": stage.get("seconds"),
            "error": (stage.get("error") or "").strip().rpartition("\n")[2],
        }
        for name, stage in stages.items()
    ]
    return _table(("stage", "status", "seconds", "error"), rows)


def _table(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield "\n| " + " | ".join(column.replace("_", " ") for column in columns) + " |\n"
    yield "|" + "---|" * len(columns) + "\n"
    for row in rows:
        if "error" in row and "error" not in columns:
            labels = ", ".join(_cell(row[key]) for key in columns if key in row)
            yield f"| {labels}: failed |" + " |" * (len(columns) - 1) + "\n"
        else:
            yield "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |\n"


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return str(value).replace("|", "\\|")
