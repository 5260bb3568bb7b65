"""Images of a report's figures, for papers: PNG, SVG and PDF of the same numbers as the page's.

Uses matplotlib's objects rather than ``pyplot``, which keeps figures globally and needs a display.
"""

# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.report.catalogue import Figure as Shown
from megadga.report.colours import COLOURS, DASHES
from megadga.report.figures import Report, Space
from megadga.report.grouping import MeanSeries, mean_over_runs
from megadga.run_folder.domain_log import Series

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from megadga.report.plot_labels import label_ends, plain, titled
except ModuleNotFoundError as error:
    raise ConfigError(
        "matplotlib: expected it to be installed, found none: pip install 'megadga[report]'"
    ) from error


FORMATS = ("png", "svg", "pdf")


MAX_LINES = 12
"""Maximum number of domains with a separate line, area or panel."""


MAX_ROWS = 48
"""Maximum number of domains of a heat map."""


SIZE_INCHES = (10.0, 5.5)


DOTS_PER_INCH = 150


OTHERS = "#888888"
"""Colour of the sum of other domains."""


_END_CHARACTERS, _PANEL_CHARACTERS, _ROW_CHARACTERS = 24, 30, 44
"""Of a name with its label at the end of a line, above a panel and beside a row."""


_HATCHES = ("", "///", "...", "xxx")  # where lines have dashes


_OF_ONE_RUN = {"areas", "heat_map", "domain_lines"}


def write_figures(
    report: Report,
    folder: Path,
    *,
    keys: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
) -> tuple[Path, ...]:
    """Write every figure that the report has something for.

    Args:
        report: What is drawn.
        folder: Where files go: ``FIGURE.png``, or, of figures that show a single run of several,
            ``FIGURE-RUN.png``. It is made if it is not there.
        keys: Of the figures; empty: all.
        formats: Some of ``FORMATS``.

    Returns:
        The paths.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    # Without a salt, every run writes other names into SVG; without text, letters are paths.
    with mpl.rc_context({"svg.hashsalt": "megadga", "svg.fonttype": "none", "pdf.fonttype": 42}):
        for shown in report.figures:
            if keys and shown.key not in keys:
                continue
            for name, figure in _drawn(report, shown):
                for suffix in formats:
                    written.append(folder / f"{name}.{suffix}")
                    metadata: dict[str, Any] = {
                        "svg": {"Date": None},
                        "pdf": {"CreationDate": None},
                    }
                    figure.savefig(
                        written[-1],
                        format=suffix,
                        dpi=DOTS_PER_INCH,
                        metadata=metadata.get(suffix),
                    )
    return tuple(written)


def _drawn(report: Report, shown: Shown) -> Iterator[tuple[str, Figure]]:
    """Yield the images of a figure, each with its name."""
    if not report.is_drawn(shown):
        return
    if shown.kind not in _OF_ONE_RUN:
        yield shown.key, draw_figure(report, shown)
        return
    for number, name in enumerate(report.names):
        if report.layers[shown.layers[0]].runs[number] is not None:
            several = len(report.names) > 1
            suffix = f"-{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name)}" if several else ""
            yield f"{shown.key}{suffix}", draw_figure(report, shown, run=number)


def draw_figure(report: Report, shown: Shown, *, run: int = 0) -> Figure:
    """Return a figure drawn.

    Args:
        report: What is drawn.
        shown: One of its figures that it has something for.
        run: The run, of a figure that shows one.
    """
    match shown.kind:
        case "curves":
            return _curves(report, shown)
        case "areas":
            return _areas(report, shown, run)
        case "panels":
            return _panels(report, shown)
        case "heat_map":
            return _heat_map(report, shown, run)
        case "domain_lines":
            return _domain_lines(report, shown, run)
        case "events":
            return _events(report, shown)


def _titled(space: Space, domain: int, *, characters: int) -> str:
    name = space.names[domain]
    return titled(name, space.labels.get(name, ""), characters=characters)


def _style(place: int) -> tuple[str, str, str]:
    """Return colour, dashes and hatching of the style at a place."""
    cycle = place // len(COLOURS) % len(DASHES)
    return COLOURS[place % len(COLOURS)], DASHES[cycle], _HATCHES[cycle]


def _new_axes(title: str, quantity: str) -> tuple[Figure, Axes]:
    """Return a figure with room for labels on the right."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.08, 0.11, 0.67, 0.79))
    _set_up(axes, title, quantity)
    return figure, axes


def _set_up(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(plain(title), loc="left", fontsize=12)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(quantity)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _set_steps(axes: Axes, last: int) -> None:
    axes.set_xlim(0.0, float(max(last, 1)))  # one step wide before anything has been trained


def _mark(size: int) -> dict[str, Any]:
    """Return a mark at the last value, so that a single one is seen; at each if there are few."""
    return {"marker": ".", "markevery": [-1] if size > 40 else 1}


def _means(report: Report, key: str) -> list[tuple[int, str, MeanSeries]]:
    """Return the mean of a layer over the runs of each group, with the group's place and name."""
    found: list[tuple[int, str, MeanSeries]] = []
    for place, group in enumerate(report.groups):
        runs = [one for n in group.members if (one := report.layers[key].runs[n]) is not None]
        if runs:
            several = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
            found.append((place, f"{group.name}{several}", mean_over_runs(runs)))
    return found


def _curves(report: Report, shown: Shown) -> Figure:
    figure, axes = _new_axes(shown.title, shown.quantity)
    if shown.scale == "log":
        axes.set_yscale("log")
    labels: list[tuple[str, float, str]] = []
    keys = [key for key in shown.layers if key in report.layers]
    for nth, key in enumerate(keys):
        thin = nth == 0 and len(keys) > 1
        for place, name, mean in _means(report, key):
            series = mean.mean
            for column, of in enumerate(series.names):
                lone = len(report.groups) == 1 and len(series.names) > 1
                colour, dashes, _ = _style(column if lone else place)
                dashes = "--" if nth > 1 else dashes if lone else DASHES[column % len(DASHES)]
                values = series.values[:, column]
                look: dict[str, Any] = (
                    {"linewidth": 0.8, "alpha": 0.4} if thin else {"linewidth": 2.0}
                )
                axes.plot(series.steps, values, dashes, color=colour, **_mark(values.size), **look)
                if not thin:
                    _band(axes, series, values, mean.errors[:, column], colour)
                    title = f"{name}: {of}" if len(series.names) > 1 or nth > 1 else name
                    labels.append(
                        (plain(title), float(values[-1]) if values.size else np.nan, colour)
                    )
    _finish(report, axes, labels)
    return figure


def _band(axes: Axes, series: Series, values: FloatArray, errors: FloatArray, colour: str) -> None:
    axes.fill_between(
        series.steps, values - errors, values + errors, color=colour, alpha=0.2, linewidth=0.0
    )


def _finish(report: Report, axes: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    _set_steps(axes, max(run.last_step for run in report.runs))
    axes.set_ylim(*axes.get_ylim())
    names, values, colours = zip(*labels, strict=True) if labels else ((), (), ())
    texts = [f"{name}  {value:.4g}" for name, value in zip(names, values, strict=True)]
    label_ends(axes, texts, values, colours)


def _of_run(report: Report, shown: Shown, run: int) -> str:
    return f"{shown.title}: {report.names[run]}" if len(report.names) > 1 else shown.title


def _series(report: Report, key: str, run: int) -> Series:
    series = report.layers[key].runs[run]
    assert series is not None, f"{key} of run {run}"
    return series


def _areas(report: Report, shown: Shown, run: int) -> Figure:
    figure, axes = _new_axes(_of_run(report, shown, run), shown.quantity)
    layer = report.layers[shown.layers[0]]
    series = _series(report, shown.layers[0], run)
    names, places = tuple(map(plain, series.names)), tuple(range(len(series.names)))
    values, step = np.nan_to_num(series.values), None
    if layer.by:
        space = report.spaces[layer.by]
        own = list(space.leading[:MAX_LINES])
        rest = list(space.leading[MAX_LINES:])
        names = tuple(_titled(space, each, characters=_END_CHARACTERS) for each in own)
        places = tuple(space.styles[each] for each in own)
        columns = [values[:, own]] + ([values[:, rest].sum(axis=1, keepdims=True)] if rest else [])
        names += (f"{len(rest):,} others together",) if rest else ()
        values, step = np.concatenate(columns, axis=1), "post"
    styles = [_style(place) for place in places] + [(OTHERS, "-", "")] * (len(names) - len(places))
    tops = np.cumsum(values, axis=1)
    for column, (colour, _, hatch) in enumerate(styles):
        below = tops[:, column - 1] if column else np.zeros(len(tops))
        axes.fill_between(
            series.steps, below, tops[:, column], color=colour, alpha=0.8, linewidth=0.0,
            hatch=hatch or None, edgecolor="white", step=step,
        )  # fmt: skip
    axes.set_ylim(0.0, 1.0)
    _set_steps(axes, int(series.steps[-1]))
    middles: list[float] = (tops[-1] - values[-1] / 2.0).tolist()
    labels = [f"{name}  {value:.3f}" for name, value in zip(names, values[-1], strict=True)]
    label_ends(axes, labels, middles, [colour for colour, _, _ in styles])
    return figure


def _panels(report: Report, shown: Shown) -> Figure:
    keys = [key for key in shown.layers if key in report.layers]
    space = report.spaces[report.layers[keys[0]].by]
    own = space.leading[:MAX_LINES]
    across = min(4, len(own))
    down = -(-len(own) // across)
    figure = Figure(
        figsize=(SIZE_INCHES[0], 0.9 + 1.6 * down), dpi=DOTS_PER_INCH, layout="constrained"
    )
    figure.suptitle(plain(f"{shown.title}; {shown.quantity}"), x=0.01, ha="left", fontsize=12)
    grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    means = [_means(report, key) for key in keys]
    for place, domain in enumerate(own):
        axes: Axes = grid[place // across, place % across]
        _panel(axes, space, domain, means)
    for axes in grid.flat[len(own) :]:
        axes.set_visible(False)
    grid[0, 0].set_xlim(0.0, float(max(1, *(run.last_step for run in report.runs))))
    if len(report.groups) > 1:
        dashes = [DASHES[place % len(DASHES)] for place in range(len(report.groups))]
        named = [plain(name) for _, name, _ in means[0]]
        lines = [grid[0, 0].plot([], [], one, color="#222222")[0] for one in dashes[: len(named)]]
        figure.legend(lines, named, loc="outside lower left", ncols=4, frameon=False)
    return figure


def _panel(
    axes: Axes, space: Space, domain: int, layers: Sequence[Sequence[tuple[int, str, MeanSeries]]]
) -> None:
    colour, _, _ = _style(space.styles[domain])
    title = _titled(space, domain, characters=_PANEL_CHARACTERS)
    axes.set_title(title, loc="left", fontsize=9)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    for nth, means in enumerate(layers):
        for place, _, mean in means:
            values = mean.mean.values[:, domain]
            lines = nth == 0 and values.size > 1
            dashes = DASHES[place % len(DASHES)] if lines else "o" if nth == 0 else "."
            axes.plot(mean.mean.steps, values, dashes, color=colour, linewidth=1.6, markersize=3.0)
            if nth == 0:
                _band(axes, mean.mean, values, mean.errors[:, domain], colour)


def _heat_map(report: Report, shown: Shown, run: int) -> Figure:
    layer = report.layers[shown.layers[0]]
    series = _series(report, shown.layers[0], run)
    space = report.spaces[layer.by]
    known = set(np.flatnonzero(np.isfinite(series.values).any(axis=0)).tolist())
    own = [domain for domain in space.leading if domain in known][:MAX_ROWS]
    figure = Figure(
        figsize=(SIZE_INCHES[0], 1.6 + 0.22 * len(own)), dpi=DOTS_PER_INCH, layout="constrained"
    )
    axes = figure.add_subplot()
    values = series.values[:, own].T
    sizes = np.abs(values[np.isfinite(values)])
    most = float(np.quantile(sizes, 0.98)) or 1.0
    edges = _edges(series)
    mesh = axes.pcolormesh(
        edges, np.arange(len(own) + 1) - 0.5, values, cmap="RdBu", vmin=-most, vmax=most
    )
    axes.set_title(plain(_of_run(report, shown, run)), loc="left", fontsize=12)
    rows = [_titled(space, domain, characters=_ROW_CHARACTERS) for domain in own]
    axes.set_yticks(range(len(own)), rows, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("optimizer step")
    figure.colorbar(mesh, ax=axes, label=shown.quantity, extend="both")
    return figure


def _edges(series: Series) -> FloatArray:
    """Return the bounds between the steps, and of the first and the last."""
    steps = series.steps.astype(np.float64)
    if steps.size == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2.0
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])


def _domain_lines(report: Report, shown: Shown, run: int) -> Figure:
    figure, axes = _new_axes(_of_run(report, shown, run), shown.quantity)
    series = _series(report, shown.layers[0], run)
    space = report.spaces[report.layers[shown.layers[0]].by]
    labels: list[tuple[str, float, str]] = []
    for domain in space.leading[:MAX_LINES]:
        colour, dashes, _ = _style(space.styles[domain])
        values = series.values[:, domain]
        axes.plot(series.steps, values, dashes, color=colour, linewidth=1.8, **_mark(values.size))
        title = _titled(space, domain, characters=_END_CHARACTERS)
        labels.append((title, float(values[-1]), colour))
        passed = np.flatnonzero(values >= (np.inf if shown.mark is None else shown.mark))[:1]
        axes.plot(series.steps[passed], values[passed], "x", color=colour, markersize=8)
    if shown.mark is not None:
        axes.axhline(shown.mark, color="#888888", linestyle=":", linewidth=1.0)
    _finish(report, axes, labels)
    return figure


def _events(report: Report, shown: Shown) -> Figure:
    figure, axes = _new_axes(shown.title, "")
    kinds = sorted({event.kind for run in report.runs for event in run.events} - {"start"})
    for place, kind in enumerate(kinds):
        found = [
            (event.step, row)
            for row, run in enumerate(report.runs)
            for event in run.events
            if event.kind == kind
        ]
        steps, rows = zip(*found, strict=True)
        axes.plot(steps, rows, "o", color=_style(place)[0], label=plain(kind), markersize=7)
    axes.set_yticks(range(len(report.names)), list(map(plain, report.names)))
    axes.set_ylim(len(report.names) - 0.5, -0.5)
    _set_steps(axes, max(run.last_step for run in report.runs))
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
    return figure
