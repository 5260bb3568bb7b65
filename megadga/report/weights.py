"""Draws the domains' weights over a run, from its metrics file alone. Knows no training.

Uses matplotlib's objects rather than ``pyplot``, which keeps figures globally and wants a display.
"""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.labels import spread
from megadga.report.records import read_records

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ConfigError(
        "matplotlib: expected it to be installed, found none: pip install 'megadga[report]'"
    ) from error

MAX_LINES = 12
"""Domains with a line of their own; the lighter ones are drawn as one."""
SIZE_INCHES = (10.0, 5.5)
DOTS_PER_INCH = 150

# Told apart by people who confuse red and green, and dark enough to be the colour of text.
_COLOURS = (
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
_OTHERS_COLOUR = "#888888"
_LABEL_GAP = 0.045  # of the height of the axes


@dataclass(frozen=True)
class WeightHistory:
    """How the averaged weights moved.

    Attributes:
        names: The domains, ``K`` of them.
        steps: Optimizer steps after which the weights were updated, shape ``(updates,)``.
        weights: Averaged weights after each update, shape ``(updates, K)``.
    """

    names: tuple[str, ...]
    steps: IntArray
    weights: FloatArray


def read_weights(metrics: Path) -> WeightHistory:
    """Return the weights that a run's metrics tell of.

    Raises:
        ConfigError: If there is no update yet, or the domains change between two.
    """
    updates = read_records(metrics, "update")
    if not updates:
        raise ConfigError(f"{metrics}: expected a record of type update, found none")
    names: tuple[str, ...] = tuple(updates[0]["averaged_weights"])
    for update in updates:
        if (found := tuple(update["averaged_weights"])) != names:
            raise ConfigError(
                f"{metrics}: update of step {update['step']}: expected the domains "
                f"{', '.join(names)}, found {', '.join(found)}"
            )
    return WeightHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        np.array([list(update["averaged_weights"].values()) for update in updates]),
    )


def heaviest_lines(history: WeightHistory, max_lines: int) -> WeightHistory:
    """Return at most ``max_lines`` lines: the domains that ever weighed most, and the rest as one.

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
        metrics: A run's ``metrics.jsonl``, finished or not, with at least one update.
        image: Where to write; ``SIZE_INCHES`` at ``DOTS_PER_INCH``.

    Raises:
        ConfigError: If the metrics hold no weights.
    """
    history = read_weights(metrics)
    lines = heaviest_lines(history, MAX_LINES)
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.07, 0.11, 0.68, 0.79))
    colours = _colours(len(lines.names), with_others=len(history.names) > MAX_LINES)
    for weights, colour in zip(lines.weights.T, colours, strict=True):
        axes.plot(
            lines.steps, weights, color=colour, linewidth=2.0, marker=".", markevery=[-1]
        )  # the mark shows a run with a single update
    _frame(axes, lines)
    _label_ends(axes, lines, colours)
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH)


def _colours(num_lines: int, *, with_others: bool) -> tuple[str, ...]:
    if with_others:
        return (*_COLOURS[: num_lines - 1], _OTHERS_COLOUR)
    return _COLOURS[:num_lines]


def _frame(axes: Axes, lines: WeightHistory) -> None:
    axes.set_title("Weights that batches are sampled from", loc="left", fontsize=12)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("averaged weight")
    axes.set_xlim(0.0, float(lines.steps[-1]))
    axes.set_ylim(0.0, 1.05 * float(lines.weights.max()))
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_ends(axes: Axes, lines: WeightHistory, colours: Sequence[str]) -> None:
    """Write each line's name and last weight beside its end, joined to it."""
    top = axes.get_ylim()[1]
    ends = [float(weight) / top for weight in lines.weights[-1]]
    heights = spread(ends, gap=_LABEL_GAP, lowest=0.0, highest=1.0)
    for name, end, height, colour in zip(lines.names, ends, heights, colours, strict=True):
        axes.annotate(
            f"{name}  {end * top:.3f}",
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
