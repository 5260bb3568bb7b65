"""One HTML file of a report: opens offline, holds its data once as JSON, loads nothing.

Python builds the data alone; what is drawn, searched and toggled is in ``page/*.js``.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.report.advice import findings
from megadga.report.colours import COLOURS, COLOURS_ON_DARK
from megadga.report.figures import GROUPED, Layer, Report, Space
from megadga.report.grouping import config_differences, flat_config
from megadga.report.runs import RunHistory
from megadga.run_folder.domain_log import Series

SCRIPTS = ("data.js", "state.js", "draw.js", "table.js", "main.js")
"""In the order in which they use each other."""
RELOAD_S = 15
"""Seconds between two reloads of a page that is being watched."""

_SHOWN_VALUE = 200
"""Characters of an event's values."""


def render_page(report: Report, *, watched: bool) -> str:
    """Return the page of a report.

    Args:
        report: What it shows.
        watched: Whether the page loads itself again every ``RELOAD_S``, as the file is rewritten.

    Raises:
        ConfigError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            "plotly: expected it to be installed, found none: pip install 'megadga[report]'"
        ) from error
    page = files("megadga.report").joinpath("page")
    data = page_data(report) | {"reload_s": RELOAD_S if watched else None}
    parts = {
        "style": page.joinpath("page.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "data": embed_json(data),
        "scripts": "\n".join(page.joinpath(s).read_text(encoding="utf-8") for s in SCRIPTS),
    }
    # Split once, so that what is inserted is never searched for places to insert.
    opening, *others = page.joinpath("page.html").read_text(encoding="utf-8").split("{{")
    rest = (one.split("}}", 1) for one in others)
    return opening + "".join(parts[name] + text for name, text in rest)


def embed_json(value: object) -> str:
    """Return JSON that can stand in a ``script`` element: no ``<``, whatever a name contains."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
    escapes |= {separator: f"\\u{ord(separator):04x}" for separator in "\u2028\u2029"}
    return text.translate(str.maketrans(escapes))


def page_data(report: Report) -> dict[str, Any]:
    """Return what the page is drawn from, as JSON takes it.

    Arrays are ``{"shape", "float32"}`` or ``{"shape", "int32"}``, base64 of little-endian numbers.
    """
    drawn = {figure.key for figure in report.figures if report.is_drawn(figure)}
    return {
        "runs": [_run(report, number) for number in range(len(report.runs))],
        "groups": [asdict(group) for group in report.groups],
        "spaces": {key: _space(space) for key, space in report.spaces.items()},
        "layers": {key: _layer(layer) for key, layer in report.layers.items() if layer.known},
        "figures": [asdict(each) | {"drawn": each.key in drawn} for each in report.figures],
        "grouped": GROUPED,
        "differences": {
            key: list(map(_shown, values))
            for key, values in config_differences(report.runs).items()
        },
        "colours": {"light": COLOURS, "dark": COLOURS_ON_DARK},
    }


def _run(report: Report, number: int) -> dict[str, Any]:
    run = report.runs[number]
    return {
        "name": report.names[number],
        "folder": str(run.folder),
        "seed": run.seed,
        "rule": str(run.config.get("mixing", {}).get("type", "unknown")),
        "step": run.last_step,
        "steps": run.total_steps,
        "tokens_per_step": run.tokens_per_step,
        "events": _events(run),
        "findings": [{"code": f.code, "step": f.step, "text": f.text} for f in findings(run)],
        "config": {key: _shown(value) for key, value in flat_config(run.config).items()},
    }


def _events(run: RunHistory) -> list[dict[str, Any]]:
    return [
        {"step": event.step, "kind": event.kind, "text": _event_text(event.values)}
        for event in run.events
        if event.kind != "start"
    ]


def _event_text(values: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key}: {_shown(value)}" for key, value in values.items())
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"


def _shown(value: Any) -> str:
    """Return a value of a configuration as YAML would have it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _space(space: Space) -> dict[str, Any]:
    return {
        "names": space.names,
        "labels": dict(space.labels),
        "leading": space.leading,
        "styles": space.styles,
    }


def _layer(layer: Layer) -> dict[str, Any]:
    """Return a layer; its series' names are those of its space, and not repeated."""
    return {"by": layer.by, "runs": [_series(each, named=not layer.by) for each in layer.runs]}


def _series(series: Series | None, *, named: bool) -> dict[str, Any] | None:
    if series is None:
        return None
    names = {"names": series.names} if named else {}
    return {**names, "steps": _array(series.steps), "values": _array(series.values)}


def _array(values: FloatArray | np.ndarray) -> dict[str, Any]:
    kind = "<f4" if np.issubdtype(values.dtype, np.floating) else "<i4"
    content = base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()
    return {"shape": values.shape, {"<f4": "float32", "<i4": "int32"}[kind]: content}
