"""What is written beside lines, areas and rows of images."""

# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.text import Text

_GAP = 0.045
"""Between two labels, of the height of the axes."""

_AWAY = 1.05
"""Where labels begin, in widths of the axes."""
_MARGIN = 0.01
"""Right of the longest label, of the width of the figure."""


def plain(text: str) -> str:
    """Return text in which matplotlib sees no mathematics."""
    return text.replace("$", r"\$")


def titled(name: str, label: str, *, characters: int) -> str:
    """Return a domain's name with as much of its label as there is room for.

    Args:
        name: Of the domain; never shortened.
        label: Words with commas between them, of which the last ones are left out; may be empty.
        characters: Most that there is room for.
    """
    room = characters - len(name) - len(" ()")
    if len(label) > room:
        label = label[: max(0, room - 1)].rpartition(",")[0]
        label += "…" if label else ""
    return plain(f"{name} ({label})" if label else name)


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


def label_ends(
    axes: Axes, labels: Sequence[str], values: Sequence[float], colours: Sequence[str]
) -> None:
    """Write a label beside the end of each line, joined to it.

    The axes become as narrow as the longest label makes them, but no narrower than half.

    Args:
        axes: Axes with final limits, of a figure that has nothing to the right of them.
        labels: One per line.
        values: Last value of each line; labels of non-finite values are at the bottom.
        colours: Colours of the lines.
    """
    bottom, top = axes.transData.inverted().transform(axes.transAxes.transform([(0, 0), (0, 1)]))
    low, high = float(bottom[1]), float(top[1])
    ends = [(value - low) / (high - low) if isfinite(value) else 0.0 for value in values]
    ends = [min(max(end, 0.0), 1.0) for end in ends]
    heights = spread_labels(ends, gap=_GAP, lowest=0.0, highest=1.0)
    notes = [
        axes.annotate(
            label,
            xy=(1.0, end),
            xytext=(_AWAY, height),
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
        for label, end, height, colour in zip(labels, ends, heights, colours, strict=True)
    ]
    box = axes.get_position()
    longest = max((Text.get_window_extent(note).width for note in notes), default=0.0)
    room = 1.0 - _MARGIN - box.x0 - longest / axes.bbox.width * box.width
    axes.set_position((box.x0, box.y0, max(room / _AWAY, box.width / 2.0), box.height))
