"""What a run has come to, in a few lines: losses, weights, cost, checkpoints, what to do next."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray, IntArray
from megadga.report.history import REVISION, START
from megadga.report.runs import RunHistory
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    best_checkpoint,
    completed_checkpoints,
    latest_checkpoint,
)
from megadga.run_folder.domains import read_domains

_NUM_WEIGHTS = 3
"""Gains, and losses, of weight that are shown."""


_NUM_REPEATED = 3


_EXPECTED = (START, "resume", "changed", REVISION, "advice")
"""Events that are not counted: they are told of elsewhere, or are the user's own."""


@dataclass(frozen=True)
class LossSummary:
    """A loss over a run, in nats per token.

    Attributes:
        name: Of the set; ``training``: of the batches.
        first: And its step.
        best: The lowest, and its step.
        last: And its step.
    """

    name: str
    first: tuple[float, int]
    best: tuple[float, int]
    last: tuple[float, int]


@dataclass(frozen=True)
class WeightChange:
    """The weight of a domain, or of a basis distribution, at the start and now."""

    name: str
    start: float
    now: float


@final
@dataclass(frozen=True)
class RunSummary:
    """What is said of a run.

    Attributes:
        folder: The run's output folder.
        step: Optimizer steps completed.
        total_steps: Those of the whole run.
        losses: Of each specific set, general, and in training.
        best_step: Where the mean loss of the specific sets was lowest, or else the general one;
            None: there was no evaluation.
        gains: Largest gains of weight, largest first.
        drops: Largest losses of weight, largest first.
        repeated: Epochs of domains that were read more than once, as of the latest checkpoint.
        predicted_overhead: Of measuring, as a share of training time; None: unknown.
        observed_overhead: Likewise.
        seconds: Spent on training and measuring.
        tokens: Trained on.
        tokens_per_s: Over the steps.
        checkpoints: Names of the complete ones, oldest first.
        latest: Name of the latest; None: there is none.
        best: Name of the best, where the run keeps it; None: it does not.
        events: How often each kind happened.
        advice: Findings about the run, in sentences.
    """

    folder: Path
    step: int
    total_steps: int
    losses: tuple[LossSummary, ...]
    best_step: int | None
    gains: tuple[WeightChange, ...]
    drops: tuple[WeightChange, ...]
    repeated: Mapping[str, float]
    predicted_overhead: float | None
    observed_overhead: float | None
    seconds: float
    tokens: int
    tokens_per_s: float | None
    checkpoints: tuple[str, ...]
    latest: str | None
    best: str | None
    events: Mapping[str, int]
    advice: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether all steps are completed."""
        return self.step >= self.total_steps


def summarize(run: RunHistory) -> RunSummary:
    """Return what is to be said of a run, finished or not; also reads its checkpoints' names.

    Raises:
        ResumeError: If the latest checkpoint's record of its domains is damaged.
    """
    folder = run.folder / CHECKPOINTS
    latest = latest_checkpoint(folder)
    checkpoint: Mapping[str, Any] = run.config.get("checkpoint") or {}
    gains, drops = _weight_changes(run)
    steps_s = run.tokens_per_step / run.train.tokens_per_s
    probes_s = float(np.nansum(run.updates.probe_s))
    trained_s = float(np.nansum(steps_s))
    kinds = Counter(event.kind for event in run.events if event.kind not in _EXPECTED)
    return RunSummary(
        folder=run.folder,
        step=run.last_step,
        total_steps=run.total_steps,
        losses=tuple(_losses(run)),
        best_step=_best_step(run),
        gains=gains,
        drops=drops,
        repeated={} if latest is None else _repeated(latest),
        predicted_overhead=_last(run.updates.predicted_overhead),
        observed_overhead=probes_s / trained_s if run.updates.steps.size and trained_s else None,
        seconds=sum(float(each.sum()) for each in run.train.seconds.values())
        or trained_s + probes_s,
        tokens=run.last_step * run.tokens_per_step,
        tokens_per_s=run.train.steps.size * run.tokens_per_step / trained_s if trained_s else None,
        checkpoints=tuple(each.name for each in completed_checkpoints(folder)),
        latest=None if latest is None else latest.name,
        best=best_checkpoint(folder).name
        if latest is not None and checkpoint.get("keep_best")
        else None,
        events=kinds,
        advice=tuple(str(event.values.get("text")) for event in run.of_kind("advice")),
    )


def _losses(run: RunHistory) -> Iterator[LossSummary]:
    for series in (run.specific, run.general):
        for name in series.names:
            yield from _loss(name, series.steps, series.of(name))
    yield from _loss("training", run.train.steps, run.train.loss)


def _loss(name: str, steps: IntArray, values: FloatArray) -> Iterator[LossSummary]:
    """Yield the summary of a loss, if it was finite once."""
    known = np.isfinite(values)
    if known.any():
        steps, values = steps[known], values[known]
        points = [(float(values[at]), int(steps[at])) for at in (0, int(np.argmin(values)), -1)]
        yield LossSummary(name, *points)


def _best_step(run: RunHistory) -> int | None:
    targets = [
        name for name in run.config["data"].get("specific", {}) if name in run.specific.names
    ]
    series = run.specific if targets else run.general
    means = np.mean([series.of(name) for name in targets or series.names], axis=0)
    if not np.isfinite(means).any():
        return None
    return int(series.steps[np.nanargmin(means)])


def _weight_changes(
    run: RunHistory,
) -> tuple[tuple[WeightChange, ...], tuple[WeightChange, ...]]:
    """Return the largest gains and the largest losses of weight."""
    first, last = run.weights.weights[0], run.weights.weights[-1]
    order = np.argsort(first - last, kind="stable")
    most: list[int] = [*order[:_NUM_WEIGHTS].tolist(), *order[: -_NUM_WEIGHTS - 1 : -1].tolist()]
    changes = [
        WeightChange(run.weights.names[at], float(first[at]), float(last[at])) for at in most
    ]
    half = len(most) // 2
    gains = tuple(each for each in changes[:half] if each.now > each.start)
    drops = tuple(each for each in changes[half:] if each.now < each.start)
    return gains, drops


def _repeated(checkpoint: Path) -> dict[str, float]:
    """Return the epochs of domains that were read more than once, most first."""
    record = read_domains(checkpoint)
    if record is None:  # of a version without
        return {}
    epochs = record.order.epochs(record.cursors)
    order = np.argsort(-epochs, kind="stable")
    names = record.contents.names
    return {names[at]: float(epochs[at]) for at in order.tolist() if epochs[at] > 1.0}


def _last(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else None


def summary_lines(summary: RunSummary) -> Iterator[str]:
    """Yield a summary as lines of text, with commands that a shell takes."""
    folder = summary.folder
    state = "finished" if summary.is_finished else "not finished"
    yield f"{folder}: step {summary.step:,} of {summary.total_steps:,}, {state}"
    if summary.losses:
        yield ""
        yield from _table(
            ("loss", "first", "at", "best", "at", "last", "at"),
            [
                (each.name, *_at(each.first), *_at(each.best), *_at(each.last))
                for each in summary.losses
            ],
        )
    if changes := (*summary.gains, *reversed(summary.drops)):
        yield ""
        rows = [
            (each.name, f"{each.start:.4f}", f"{each.now:.4f}", f"{each.now - each.start:+.4f}")
            for each in changes
        ]
        yield from _table(("weight", "start", "now", "change"), rows)
    yield ""
    facts = list(_facts(summary))
    yield from tabulate(facts, tablefmt="plain", disable_numparse=True).split("\n")


def _facts(summary: RunSummary) -> Iterator[tuple[str, str]]:
    if summary.best_step is not None:
        yield "best step", f"{summary.best_step:,}"
    if summary.repeated:
        shown = list(summary.repeated.items())[:_NUM_REPEATED]
        more = len(summary.repeated) - len(shown)
        listed = ", ".join(f"{name} {epochs:.2f}" for name, epochs in shown)
        yield "repeated", f"{listed} epochs{f', and {more:,} domains more' if more else ''}"
    if summary.observed_overhead is not None:
        known = summary.predicted_overhead
        predicted = "" if known is None else f", {known:.1%} predicted"
        yield "measuring", f"{summary.observed_overhead:.1%} of training time{predicted}"
    speed = "" if summary.tokens_per_s is None else f", {summary.tokens_per_s:,.0f} tokens/s"
    yield "time", f"{_duration(summary.seconds)}, {summary.tokens:,} tokens{speed}"
    if summary.events:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in summary.events.items())
        yield "events", counts
    if summary.latest is not None:
        others = len(summary.checkpoints) - 1
        best = "" if summary.best is None else f", best {summary.best}"
        more = f", {others:,} other{'s' * (others > 1)}" if others > 0 else ""
        yield "checkpoints", f"latest {summary.latest}{best}{more}"
    for sentence in summary.advice:
        yield "advice", sentence
    folder = shlex.quote(str(summary.folder))
    yield "next", f"megadga report {folder}"
    yield "", f"megadga compare {folder} OTHER_RUN"
    if summary.latest is not None:
        step = "" if summary.best is None else " --step best"
        yield "", f"megadga export {folder} {shlex.quote(f'{summary.folder}-hf')}{step}"


def _at(point: tuple[float, int]) -> tuple[str, str]:
    value, step = point
    return f"{value:.4f}", f"{step:,}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ("left", *("right",) * (len(titles) - 1))
    # The titles as a row: as headers they would widen every column by two.
    cells = [titles, *rows]
    return tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align).split("\n")


def _duration(seconds: float) -> str:
    minutes = seconds / 60.0
    if minutes < 1.0:
        return f"{seconds:.1f} s"
    return f"{minutes:.1f} min" if minutes < 120.0 else f"{minutes / 60.0:.1f} h"
