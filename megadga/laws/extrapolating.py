"""Losses of longer runs and larger models, from laws of steps and sizes (arXiv 2403.16952, 4)."""

from collections.abc import Mapping, Sequence

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.errors import ConfigError
from megadga.laws.observations import Observations, RunLosses
from megadga.laws.scaling import LEAST_POINTS, SIZE_DELTA, STEP_DELTA, fit_tied
from megadga.report.runs import RunHistory
from megadga.run_folder import CONFIG_FILE

_EARLY = 0.25
"""Share of a run whose evaluations are left out: early ones do not follow the power law yet. The
paper fits steps 10,000 to 30,000 of runs of 30,000."""


def extrapolate_steps(runs: Sequence[RunLosses], tokens: int) -> Observations:
    """Return what runs would reach after so many tokens, each by a law of its own evaluations.

    The exponent is one for all sets of a run (``tie_alpha="valid"`` in the code).

    Args:
        runs: Each with at least ``LEAST_POINTS`` evaluations after its first quarter.
        tokens: More than any was trained on.

    Raises:
        ConfigError: If a run has fewer evaluations.
    """
    losses: list[FloatArray] = []
    for run in runs:
        late = run.tokens >= _EARLY * run.tokens[-1]
        if late.sum() < LEAST_POINTS:
            raise ConfigError(
                f"{run.name}: expected at least {LEAST_POINTS} evaluations after its first "
                f"quarter, which a law of its steps is fitted to, found {late.sum()}"
            )
        x = run.tokens[late].astype(np.float64)
        losses.append(fit_tied(x, run.losses[late], delta=STEP_DELTA).predict(tokens))
    return Observations.at(runs, losses)


def extrapolate_sizes(by_size: Mapping[int, Observations], parameters: int) -> Observations:
    """Return the losses of a model of another size at each mixture, by a law of sizes.

    The exponent is one for all sets and mixtures (``tie_alpha="all"`` in the code).

    Args:
        by_size: Observations by the models' parameters without the embedding; each has the same
            mixtures. Losses of a mixture are means over its runs.
        parameters: Of the model.

    Raises:
        ConfigError: If there are too few sizes, or their mixtures differ.
    """
    if len(by_size) < LEAST_POINTS:
        raise ConfigError(
            f"parameters: expected runs of at least {LEAST_POINTS} sizes, which a law of sizes is "
            f"fitted to, found {', '.join(f'{size:,}' for size in sorted(by_size))}"
        )
    sizes = sorted(by_size)
    means = {size: _by_mixture(by_size[size]) for size in sizes}
    keys = list(means[sizes[0]])
    for size in sizes[1:]:
        if set(means[size]) != set(keys):
            raise ConfigError(
                f"parameters: expected the same mixtures at every size, found others at {size:,} "
                f"than at {sizes[0]:,}"
            )
    first = by_size[sizes[0]]
    curves = np.stack([np.concatenate([means[size][key] for key in keys]) for size in sizes])
    law = fit_tied(np.array(sizes, dtype=np.float64), curves, delta=SIZE_DELTA)
    return Observations(
        tuple(f"mixture {index}" for index in range(len(keys))),
        first.domains,
        first.sets,
        np.array(keys),
        law.predict(parameters).reshape(len(keys), -1),
    )


def _by_mixture(observations: Observations) -> dict[tuple[float, ...], FloatArray]:
    """Return the mean losses of each mixture, by its rounded weights."""
    numbers = observations.mixtures()
    found: dict[tuple[float, ...], FloatArray] = {}
    for number in range(int(numbers.max()) + 1):
        rows = np.flatnonzero(numbers == number)
        key = tuple(observations.weights[rows[0]].round(9).tolist())
        found[key] = observations.losses[rows].mean(axis=0)
    return found


def parameters_of(run: RunHistory) -> int:
    """Return the parameters of a run's model without its embedding, as the paper counts them.

    Raises:
        ConfigError: If the model is not a ``llama``, of which the configuration tells all sizes.
    """
    config = load_config(run.folder / CONFIG_FILE)
    match config.model:
        case LlamaModel(shape=shape):
            return shape.num_parameters(0)
        case _:
            expected = "llama: only its sizes follow from the configuration"
            raise config.invalid("model", "type", expected=expected, found=config.model.type)
