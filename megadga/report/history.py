"""The domains' weights over a run, read from its metrics file alone. Knows no plot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.records import averaged_weights, read_records

START = "start"
"""The event that tells the weights of step 0."""


@dataclass(frozen=True)
class WeightHistory:
    """How the averaged weights moved.

    Attributes:
        names: The domains, ``K`` of them; or basis distributions over too many to be told of.
        steps: Optimizer steps after which the weights were updated, or 0 for those that the run
            began with, shape ``(updates,)``.
        weights: Averaged weights after each update, shape ``(updates, K)``.
    """

    names: tuple[str, ...]
    steps: IntArray
    weights: FloatArray


def read_weights_from_start(metrics: Path) -> WeightHistory:
    """Return the weights that a run's metrics tell of from step 0 on, fixed ones to the last step.

    Metrics without an event ``start``, of an older run, begin at the first update.

    Raises:
        ConfigError: If there is neither, or the domains change between two.
    """
    events = read_records(metrics, "event")
    start = next((event for event in events if event.get("event") == START), None)
    if start is None:
        return read_weights(metrics)
    names = tuple(averaged_weights(metrics, start))
    first = np.array([list(averaged_weights(metrics, start).values())])
    if not read_records(metrics, "update"):
        steps = [record["step"] for record in read_records(metrics, "train")]
        last = max(steps, default=0)
        return WeightHistory(names, np.array([0, last], dtype=np.int64), np.repeat(first, 2, 0))
    updates = read_weights(metrics)
    if updates.names != names:
        raise ConfigError(
            f"{metrics}: event {START}: expected the domains {', '.join(updates.names)}, "
            f"found {', '.join(names)}"
        )
    return WeightHistory(
        names,
        np.concatenate([[0], updates.steps]),
        np.concatenate([first, updates.weights]),
    )


def read_weights(metrics: Path) -> WeightHistory:
    """Return the weights that a run's metrics tell of.

    Raises:
        ConfigError: If there is no update yet, or the domains change between two.
    """
    updates = read_records(metrics, "update")
    if not updates:
        raise ConfigError(f"{metrics}: expected a record of type update, found none")
    weights = [averaged_weights(metrics, update) for update in updates]
    names: tuple[str, ...] = tuple(weights[0])
    for update, of_update in zip(updates, weights, strict=True):
        if (found := tuple(of_update)) != names:
            raise ConfigError(
                f"{metrics}: update of step {update['step']}: expected the domains "
                f"{', '.join(names)}, found {', '.join(found)}"
            )
    return WeightHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        np.array([list(of_update.values()) for of_update in weights]),
    )
