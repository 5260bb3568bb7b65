"""Draws the domains' weights over a run, from its metrics file alone. Knows no training."""
# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take keywords of unknown types.

from pathlib import Path

import numpy as np

from megadga.report.history import WeightHistory, read_weights
from megadga.report.lines import (
    COLOURS,
    MAX_LINES,
    OTHERS_COLOUR,
    frame,
    label_ends,
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
        metrics: A run's ``metrics.jsonl``, finished or not, with at least one update.
        image: Where to write.

    Raises:
        ConfigError: If the metrics hold no weights.
    """
    history = read_weights(metrics)
    lines = heaviest_lines(history, MAX_LINES)
    figure, axes = new_axes()
    colours = _colours(len(lines.names), with_others=len(history.names) > MAX_LINES)
    for weights, colour in zip(lines.weights.T, colours, strict=True):
        axes.plot(
            lines.steps, weights, color=colour, linewidth=2.0, marker=".", markevery=[-1]
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
    label_ends(axes, labels, last, colours)
    save(figure, image)


def _colours(num_lines: int, *, with_others: bool) -> tuple[str, ...]:
    if with_others:
        return (*COLOURS[: num_lines - 1], OTHERS_COLOUR)
    return COLOURS[:num_lines]
