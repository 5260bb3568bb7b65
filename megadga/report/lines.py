"""A line a domain over the steps of a run, labelled where it ends. Knows no metric.

Uses matplotlib's objects rather than ``pyplot``, which keeps figures globally and wants a display.
"""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from megadga.errors import ConfigError
from megadga.report.labels import spread

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ConfigError(
        "matplotlib: expected it to be installed, found none: pip install 'megadga[report]'"
    ) from error

MAX_LINES = 12
"""Domains with a line of their own."""
SIZE_INCHES = (10.0, 5.5)
DOTS_PER_INCH = 150

# Told apart by people who confuse red and green, and dark enough to be the colour of text.
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
"""Of what stands for several domains."""
_LABEL_GAP = 0.045  # of the height of the axes


def line_style(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Return colour and dashes of a domain's line: the same ones in every run over these domains.

    They go by the place of its name among all, not by its weight.
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


def frame(axes: Axes, *, title: str, quantity: str, last_step: int) -> None:
    """Say what is drawn, from step 0 to the last."""
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
        axes: Framed, with the limits that will stay.
        labels: One a line.
        values: Where each line ends; one that is not finite has its label at the bottom.
        colours: Of the lines.
    """
    bottom, top = axes.get_ylim()
    ends = [(value - bottom) / (top - bottom) if isfinite(value) else 0.0 for value in values]
    heights = spread(ends, gap=_LABEL_GAP, lowest=0.0, highest=1.0)
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
