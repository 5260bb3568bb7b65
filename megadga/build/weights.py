"""From a mixture as it is written to weights over the domains. Knows no rule that moves them."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.build.naming import misnamed
from megadga.config.models import RunConfig
from megadga.config.places import KeyPath
from megadga.config.weights import TemperatureWeights, UnimaxWeights, Weights
from megadga.mixing.static import proportional_weights, temperature_weights, uniform_weights
from megadga.mixing.unimax import unimax_weights
from megadga.shards.domain import Domain


def importance_of_sets(config: RunConfig) -> FloatArray:
    """Return the importance of the run's specific sets, in their order, shape ``(M,)``."""
    return np.array([target.importance for target in config.data.specific.values()])


@final
@dataclass(frozen=True, eq=False)
class RunWeights:
    """Turns mixtures of a run's file into weights over its domains.

    Attributes:
        config: The run.
        domains: Its training domains, ``K`` of them.
        left_out: Names of those that are too short for a window.
    """

    config: RunConfig
    domains: Sequence[Domain]
    left_out: AbstractSet[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The domains' names, in order."""
        return [domain.name for domain in self.domains]

    def of(self, path: KeyPath, rule: Weights) -> FloatArray:
        """Return the weights that a rule gives, shape ``(K,)``.

        Args:
            path: Where the run has the rule.
            rule: Written in one of the ways.

        Raises:
            ConfigError: If weights do not name exactly the domains.
        """
        tokens = np.array([domain.num_tokens for domain in self.domains], dtype=np.int64)
        match rule:
            case "uniform":
                return uniform_weights(len(self.domains))
            case "proportional":
                return proportional_weights(tokens)
            case TemperatureWeights():
                return temperature_weights(tokens, rule.temperature)
            case UnimaxWeights():
                training, length = self.config.training, self.config.model.sequence_length
                budget = training.steps * training.global_batch_size * length
                return unimax_weights(tokens, budget=budget, max_epochs=rule.max_epochs)
            case _:
                mistakes = list(misnamed(path, rule, self.names, self.left_out))
                if mistakes:
                    raise self.config.error(mistakes)
                weights = np.array([rule[name] for name in self.names], dtype=np.float64)
                return weights / weights.sum()
