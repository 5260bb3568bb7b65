"""From the section of DoGE to its rule. Knows no torch."""

from megadga.build.weights import RunWeights
from megadga.config.rules import DogeMixing
from megadga.mixing.doge import Doge


def make_doge(mixing: DogeMixing, weights: RunWeights) -> Doge:
    """Return the rule over the domains.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Doge(
        weights.of(("mixing", "initial"), mixing.initial),
        step_size=mixing.step_size,
        target=mixing.target,
        max_score=mixing.max_score,
    )
