"""Plots of a run from its metrics file.

Uses matplotlib's objects rather than ``pyplot``, which keeps figures globally and needs a display.
"""

# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np

from megadga.errors import ConfigError
from megadga.mixers.rule import WeightHistory
from megadga.report.alignments import AlignmentHistory, has_alignments, read_alignments
from megadga.report.history import read_weights_from_start
from megadga.report.records import read_metrics


def spread_labels(
    positions: Sequence[float], *, gap: float, lowest: float, highest: float
) -> list[float]:
    """Move positions apart to at least ``gap`` distance, keeping their order.

    Args:
        positions: In any order.
        gap: Minimum distance, above 0; reduced if the positions do not fit between ``lowest`` and
            ``highest``.
        lowest: Bound of every position returned.
        highest: Likewise.
    """
    if not positions:
        return []
    gap = min(gap, (highest - lowest) / max(1, len(positions) - 1))
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [0.0] * len(positions)
    bound = lowest
    for index in order:  # upwards: none below its neighbour or the bottom
        placed[index] = max(positions[index], bound)
        bound = placed[index] + gap
    bound = highest
    for index in reversed(order):  # downwards: none above the top, nor closer than the gap
        placed[index] = min(placed[index], bound)
        bound = placed[index] - gap
    return placed


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ConfigError(
        "matplotlib: expected it to be installed, found none: pip install 'megadga[report]'"
    ) from error


MAX_LINES = 12
"""Maximum number of domains with a separate line."""


SIZE_INCHES = (10.0, 5.5)


DOTS_PER_INCH = 150


# Distinguishable with red-green colour blindness, and dark enough for text.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#117733",
    "#aa3377",
    "#332288",
    "#b8860b",
    "#44aa99",
    "#882255",
    "#6699cc",
    "#666633",
    "#cc6677",
    "#222222",
)


DASHES = ("-", "--", ":", "-.")


OTHERS = ("#888888", "-")
"""Style of the line for the sum of other domains."""


_LABEL_GAP = 0.045  # of the height of the axes


def line_style(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Return colour and dashes of a domain's line, equal in all runs over the same domains.

    They depend on the rank of its name, not on its weight.
    """
    place = sorted(names).index(name)
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def new_axes() -> tuple[Figure, Axes]:
    """Return an empty figure with room for labels on the right."""
    figure, (axes,) = new_panels(1)
    return figure, axes


def new_panels(number: int) -> tuple[Figure, tuple[Axes, ...]]:
    """Return a figure with axes one below the other, each as high as a figure of its own."""
    width, height = SIZE_INCHES
    figure = Figure(figsize=(width, number * height), dpi=DOTS_PER_INCH)
    bottoms = [(number - 1 - place + 0.11) / number for place in range(number)]
    return figure, tuple(figure.add_axes((0.08, b, 0.67, 0.79 / number)) for b in bottoms)


def set_up_axes(axes: Axes, *, title: str, quantity: str, last_step: int) -> None:
    """Set title, labels, limits and grid, from step 0 to the last."""
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(quantity)
    axes.set_xlim(0.0, float(max(last_step, 1)))  # one step wide before anything has been trained
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def label_ends(
    axes: Axes, labels: Sequence[str], values: Sequence[float], colours: Sequence[str]
) -> None:
    """Write a label beside the end of each line, joined to it.

    Args:
        axes: Axes with final limits.
        labels: One per line.
        values: Last value of each line; labels of non-finite values are at the bottom.
        colours: Colours of the lines.
    """
    bottom, top = axes.get_ylim()
    ends = [(value - bottom) / (top - bottom) if isfinite(value) else 0.0 for value in values]
    heights = spread_labels(ends, gap=_LABEL_GAP, lowest=0.0, highest=1.0)
    for label, end, height, colour in zip(labels, ends, heights, colours, strict=True):
        axes.annotate(
            label,
            xy=(1.0, end),
            xytext=(1.05, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=10,
            verticalalignment="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.0,
                "relpos": (0.0, 0.5),  # to the middle of the text's left edge
                "shrinkA": 2.0,
                "shrinkB": 0.0,
            },
        )


def save(figure: Figure, image: Path) -> None:
    """Write a PNG of ``SIZE_INCHES`` a panel at ``DOTS_PER_INCH``."""
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH)


def plot_alignments(metrics: Path, image: Path) -> None:
    """Draw the alignments of the heaviest domains over the steps, within a standard error.

    Args:
        metrics: A run's ``metrics.jsonl``, finished or not, with at least one update.
        image: Path of the PNG, with one panel per specific set.

    Raises:
        ConfigError: If the metrics hold no alignments.
    """
    histories = read_alignments(read_metrics(metrics))
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
    set_up_axes(axes, title=title, quantity="alignment", last_step=int(history.steps[-1]))
    axes.set_ylim(*axes.get_ylim())
    last: list[float] = history.alignments[-1, heaviest].tolist()
    labels = [f"{name}  {value:.3g}" for name, value in zip(names, last, strict=True)]
    label_ends(axes, labels, last, [colour for colour, _ in styles])


def heaviest_lines(history: WeightHistory, max_lines: int) -> WeightHistory:
    """Return the domains with the largest peak weights, and the sum of the rest as one line.

    The lines are in the order of their last weights, largest first; the rest comes last.
    """
    weights = history.weights
    by_peak = np.argsort(-weights.max(axis=0), kind="stable")
    num_own = weights.shape[1] if weights.shape[1] <= max_lines else max_lines - 1
    own, others = by_peak[:num_own], by_peak[num_own:]
    own = own[np.argsort(-weights[-1, own], kind="stable")]
    own_domains: list[int] = own.tolist()
    names = tuple(history.names[domain] for domain in own_domains)
    if not others.size:
        return WeightHistory(names, history.steps, weights[:, own])
    rest = weights[:, others].sum(axis=1, keepdims=True)
    return WeightHistory(
        (*names, f"{others.size:,} others together"),
        history.steps,
        np.concatenate([weights[:, own], rest], axis=1),
    )


def plot_weights(metrics: Path, image: Path) -> None:
    """Draw the averaged weights of every domain over the steps as a PNG.

    Args:
        metrics: A run's ``metrics.jsonl``, finished or not; weights that stay are drawn too.
        image: Where to write.

    Raises:
        ConfigError: If the metrics hold no weights.
    """
    history = read_weights_from_start(read_metrics(metrics))
    lines = heaviest_lines(history, MAX_LINES)
    figure, axes = new_axes()
    styles = [
        line_style(name, history.names) if name in history.names else OTHERS
        for name in lines.names
    ]
    for weights, (colour, dashes) in zip(lines.weights.T, styles, strict=True):
        axes.plot(
            lines.steps, weights, dashes, color=colour, linewidth=2.0, marker=".", markevery=[-1]
        )  # the mark shows a run with a single update
    set_up_axes(
        axes,
        title="Weights that batches are sampled from",
        quantity="averaged weight",
        last_step=int(lines.steps[-1]),
    )
    axes.set_ylim(0.0, 1.05 * float(lines.weights.max()) or 1.0)
    last: list[float] = lines.weights[-1].tolist()
    labels = [f"{name}  {weight:.3f}" for name, weight in zip(lines.names, last, strict=True)]
    label_ends(axes, labels, last, [colour for colour, _ in styles])
    save(figure, image)


def plot_run(metrics: Path, folder: Path) -> tuple[Path, ...]:
    """Draw a run's weights, and its alignments within their standard errors.

    Args:
        metrics: A run's ``metrics.jsonl``, finished or not.
        folder: Output folder of ``weights.png`` and ``alignments.png``, the latter with one panel
            per specific set.

    Returns:
        The image paths; without alignments only the first.

    Raises:
        ConfigError: If the metrics have no weights.
    """
    weights, alignments = (folder / f"{name}.png" for name in ("weights", "alignments"))
    plot_weights(metrics, weights)
    if not any(map(has_alignments, read_metrics(metrics).of("update"))):
        return (weights,)
    plot_alignments(metrics, alignments)
    return weights, alignments
