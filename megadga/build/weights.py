"""From a mixture as it is written to weights over the domains. Knows no rule that moves them."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from difflib import get_close_matches

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.models import RunConfig
from megadga.config.places import KeyPath, Mistake
from megadga.config.weights import TemperatureWeights, UnimaxWeights, Weights
from megadga.mixing.static import proportional_weights, temperature_weights, uniform_weights
from megadga.mixing.unimax import unimax_weights
from megadga.shards.domain import Domain

MOST_NAMED = 5
"""Domains that an error names: there may be thousands."""


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
            mistakes = list(_misnamed(path, rule, names, left_out))
            if mistakes:
                raise config.error(mistakes)
            weights = np.array([rule[domain.name] for domain in domains], dtype=np.float64)
            return weights / weights.sum()


def _misnamed(
    path: KeyPath, weights: Mapping[str, float], names: Sequence[str], left_out: AbstractSet[str]
) -> Iterator[Mistake]:
    known = set(names)
    unknown = [name for name in weights if name not in known]
    for name in unknown[:MOST_NAMED]:
        if name in left_out:
            expected = "the name of a domain that is not left out (data.too_short)"
            yield Mistake((*path, name), expected, f"{weights[name]} in {name!r}")
            continue
        close = get_close_matches(name, names, n=1)
        hint = repr(close[0]) if close else ""
        yield Mistake((*path, name), "the name of a domain", repr(name), hint)
    if len(unknown) > MOST_NAMED:
        found = f"{len(unknown) - MOST_NAMED} more that are none"
        yield Mistake(path, "names of domains", found)
    missing = [name for name in names if name not in weights]
    if missing:
        named = ", ".join(missing[:MOST_NAMED]) + (", ..." if len(missing) > MOST_NAMED else "")
        found = f"none for {len(missing)} ({named})"
        yield Mistake(path, f"a weight for each of the {len(names)} domains", found)
