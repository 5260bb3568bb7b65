"""Draws the domains' weights over a run, from its metrics file alone. Knows no training."""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from pathlib import Path

import numpy as np

from megadga.report.history import WeightHistory, read_weights_from_start
from megadga.report.lines import (
    MAX_LINES,
    OTHERS,
    frame,
    label_ends,
    line_style,
    new_axes,
    save,
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
        metrics: A run's ``metrics.jsonl``, finished or not; weights that stay are drawn too.
        image: Where to write.

    Raises:
        ConfigError: If the metrics hold no weights.
    """
    history = read_weights_from_start(metrics)
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
    frame(
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
