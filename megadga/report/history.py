"""The domains' weights over a run, read from its metrics file alone. Knows no plot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.records import averaged_weights, read_records


@dataclass(frozen=True)
class WeightHistory:
    """How the averaged weights moved.

    Attributes:
        names: The domains, ``K`` of them; or basis distributions over too many to be told of.
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
