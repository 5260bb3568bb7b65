"""Opens what a run is over: its data, and its rule over their domains."""

from megadga.config.run import RunConfig
from megadga.train.data import RunData, open_data, open_specific
from megadga.train.mixture import Mixture, WeightResolver, make_mixture
from megadga.train.supported import check_supported_run

Opened = tuple[RunConfig, RunData, Mixture]
"""A run, its data, and its rule over their domains."""


def open_with_rule(config: RunConfig) -> Opened:
    """Open a run's data, and make its rule over their domains.

    Raises:
        ConfigError: If the configuration contradicts the shards, or has DeepSpeed settings that
            are not supported.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
    """
    data = open_data(config)
    mixture = mixture_over(config, data)
    check_supported_run(config, data, mixture)
    return config, data, mixture


def weights_over(config: RunConfig, data: RunData) -> WeightResolver:
    """Return what turns mixtures that are written elsewhere into weights over a run's domains.

    Raises:
        ShardError: If a specific set is missing, damaged or too short.
    """
    return WeightResolver(config, data.domains, open_specific(config), data.excluded.keys())


def mixture_over(config: RunConfig, data: RunData) -> Mixture:
    """Return a run's mixture over its data.

    Raises:
        ConfigError: As of ``make_mixture``.
    """
    return make_mixture(
        config,
        data.domains,
        specific=data.specific,
        excluded=data.excluded.keys(),
        basis=data.basis,
        architecture=data.architecture,
    )
