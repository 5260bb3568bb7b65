"""From a mixture as it is written to weights over the domains. Knows no rule that moves them."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from megadga.arrays import FloatArray
from megadga.build.naming import misnamed
from megadga.config.models import RunConfig
from megadga.config.places import KeyPath
from megadga.config.weights import TemperatureWeights, UnimaxWeights, Weights
from megadga.mixing.static import proportional_weights, temperature_weights, uniform_weights
from megadga.mixing.unimax import unimax_weights
from megadga.shards.domain import Domain


def make_weights(
    config: RunConfig,
    path: KeyPath,
    rule: Weights,
    domains: Sequence[Domain],
    left_out: AbstractSet[str],
) -> FloatArray:
    """Return the weights that a rule gives, shape ``(K,)``.

    Args:
        config: The run.
        path: Where it has the rule.
        rule: Written in one of the ways.
        domains: The training domains, ``K`` of them.
        left_out: Names of those that are too short for a window.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    tokens = np.array([domain.num_tokens for domain in domains], dtype=np.int64)
    match rule:
        case "uniform":
            return uniform_weights(len(domains))
        case "proportional":
            return proportional_weights(tokens)
        case TemperatureWeights():
            return temperature_weights(tokens, rule.temperature)
        case UnimaxWeights():
            training, length = config.training, config.model.sequence_length
            budget = training.steps * training.global_batch_size * length
            return unimax_weights(tokens, budget=budget, max_epochs=rule.max_epochs)
        case _:
            names = [domain.name for domain in domains]
            mistakes = list(misnamed(path, rule, names, left_out))
            if mistakes:
                raise config.error(mistakes)
            weights = np.array([rule[domain.name] for domain in domains], dtype=np.float64)
            return weights / weights.sum()
