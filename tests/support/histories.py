"""Histories of runs that never were, of any parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megadga.mixers.rule import WeightHistory
from megadga.report.alignments import AlignmentHistory
from megadga.report.runs import Event, RunHistory, TrainHistory, UpdateHistory
from megadga.run_folder.domain_log import Series

TOKENS_PER_STEP = 32
Curves = Mapping[str, Any]
"""Numbers by name, as lists or arrays."""


def series(curves: Curves, *, every: int = 10) -> Series:
    """Curves by name, a value every so many steps."""
    number = max(map(len, curves.values()), default=0)
    values = np.array([*curves.values()], dtype=np.float64).T.reshape(number, len(curves))
    return Series(tuple(curves), every * np.arange(1, len(values) + 1), values)


def weights_of(*rows: Any, names: Sequence[str] = ("a", "b")) -> WeightHistory:
    """Weights at step 0 and after updates, ten steps apart."""
    return WeightHistory(tuple(names), 10 * np.arange(len(rows)), np.array(rows, dtype=float))


def alignments_of(dots: Any, errors: Any) -> AlignmentHistory:
    """Alignments after updates ten steps apart; errors are broadcast."""
    dots = np.asarray(dots, dtype=np.float64)
    names = tuple(f"d{index}" for index in range(dots.shape[1]))
    steps = 10 * np.arange(1, len(dots) + 1)
    every = np.broadcast_to(errors, dots.shape).astype(np.float64)
    return AlignmentHistory(names, steps, dots, every, np.full(len(names), 1.0 / len(names)))


def updates_of(predicted: Any = (), observed: Any = (), probe_s: Any = ()) -> UpdateHistory:
    """Costs of updates, ten steps apart."""
    number = len(observed)
    shares, seen, seconds = (
        np.broadcast_to(each, number).astype(np.float64) for each in (predicted, observed, probe_s)
    )
    steps = 10 * np.arange(1, number + 1)
    return UpdateHistory(steps, shares, seen, seconds, np.full(number, np.nan))


def run_of(
    name: str = "run",
    *,
    steps: int = 1000,
    total_steps: int = 1000,
    seed: int = 0,
    mixing: Mapping[str, Any] | None = None,
    max_epochs: float | None = None,
    specific: Curves | None = None,
    domains: Curves | None = None,
    general: Any = (),
    trained: Curves | None = None,
    sequences: Curves | None = None,
    epochs: Curves | None = None,
    weights: WeightHistory | None = None,
    alignments: Mapping[str, AlignmentHistory] | None = None,
    updates: UpdateHistory | None = None,
    events: tuple[Event, ...] = (),
    more: Mapping[str, Any] | None = None,
) -> RunHistory:
    """A run of the parts that are given; curves have a value every ten steps."""
    config = {
        "seed": seed,
        "output": f"runs/{name}",
        "model": {"sequence_length": 8},
        "data": {"specific": {name: {} for name in specific or {}}},
        "mixing": mixing or {"type": "static"},
        "sampling": {"max_epochs": max_epochs},
        "training": {"steps": total_steps, "global_batch_size": 4},
        **(more or {}),
    }
    nothing = np.full(1, np.nan)
    return RunHistory(
        folder=Path("runs") / name,
        config=config,
        train=TrainHistory(np.array([steps]), nothing, nothing, nothing, nothing, nothing, {}),
        specific=series(specific or {}),
        domains=series(domains or {}),
        general=series({"general": general} if len(general) else {}),
        trained=series(trained or {}),
        sequences=series(sequences or {}),
        weights=weights_of([0.5, 0.5]) if weights is None else weights,
        alignments=alignments or {},
        gradient_norms=series({}),
        direction_norms=series({}),
        epochs=series(epochs or {}),
        updates=updates_of() if updates is None else updates,
        events=events,
    )
