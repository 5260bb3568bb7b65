"""From the section of GRAPE to its rule. Knows no torch."""

from megadga.build.weights import RunWeights, importance_of_sets
from megadga.config.grape import GrapeMixing
from megadga.mixing.grape import Grape


def make_grape(mixing: GrapeMixing, weights: RunWeights) -> Grape:
    """Return the rule for the run's specific sets, whose weights start at their importance.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    importance = importance_of_sets(weights.config)
    return Grape(
        weights.of(("mixing", "initial"), mixing.initial),
        importance / importance.sum(),
        step_size=mixing.step_size,
        task_step_size=mixing.task_step_size,
        task_smoothing=mixing.task_smoothing,
        score=mixing.score,
    )
