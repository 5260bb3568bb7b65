"""Learning rates that a run had logged at its checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megadga.errors import ConfigError
from megadga.report.runs import read_run
from megadga.run_folder import CONFIG_FILE
from megadga.train.saved import StepName, open_saved


def learning_rates_at(model: Path, steps: Sequence[StepName | None]) -> list[float]:
    """Return the learning rate of a run at each checkpoint; 1 for what is not a run.

    Args:
        model: A run's folder, or any other model.
        steps: The checkpoints: optimizer steps, ``best``, or None for the latest.

    Raises:
        ConfigError: If the run has logged none up to a step.
        ResumeError: If there is no such checkpoint.
    """
    if not (model / CONFIG_FILE).is_file():
        return [1.0 for _ in steps]
    train = read_run(model).train
    rates: list[float] = []
    for step in steps:
        found = open_saved(model, step=step).step
        before = np.flatnonzero((train.steps <= found) & np.isfinite(train.learning_rate))
        if not before.size:
            raise ConfigError(
                f"{model}: expected a logged learning rate up to step {found}, found none: name "
                "it with --learning-rate"
            )
        rates.append(float(train.learning_rate[before[-1]]))
    return rates
