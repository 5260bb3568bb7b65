"""The run that a law's mixture is for: how often it would read each domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from megadga.arrays import FloatArray
from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.mixers.static import epoch_caps
from megadga.mixers.weights import Weights
from megadga.section import format_value
from megadga.train.data import RunData, open_data
from megadga.train.mixture import misnamed
from megadga.train.opening import weights_over

_WEIGHTS: TypeAdapter[Weights] = TypeAdapter(Weights)


@final
@dataclass(frozen=True, eq=False)
class Target:
    """A run that is to be trained.

    Attributes:
        config: The run.
        data: Of it.
        order: Where each domain of the law is among the run's, shape ``(K,)``.
    """

    config: RunConfig
    data: RunData
    order: tuple[int, ...]

    @property
    def epochs_at_one(self) -> FloatArray:
        """Passes over each domain of the law at weight 1, shape ``(K,)``."""
        training = self.config.training
        sequences = np.array([each.num_sequences for each in self.data.domains], dtype=np.float64)
        return (training.steps * training.global_batch_size / sequences)[list(self.order)]

    def caps(self, max_epochs: float | None) -> FloatArray:
        """Return the largest weight of each domain of the law, shape ``(K,)``.

        Raises:
            ConfigError: If there is too little text for the run.
        """
        if max_epochs is None:
            return np.ones(len(self.order))
        try:
            return epoch_caps(self.epochs_at_one, max_epochs)
        except ValueError as error:
            raise ConfigError(f"--{str(error).replace('_', '-')}") from None

    def weights(self, written: Any, key: str) -> FloatArray:
        """Return what a mixture comes to over the domains of the law, shape ``(K,)``.

        Args:
            written: As YAML has it.
            key: Where, for messages.

        Raises:
            ConfigError: If it is none, or names other domains.
        """
        try:
            rule = _WEIGHTS.validate_python(written)
        except ValidationError:
            expected = "uniform, proportional, or {domain: weight} with a sum of 1"
            raise ConfigError(
                f"{key}: expected {expected}, found {format_value(written)}"
            ) from None
        resolver = weights_over(self.config, self.data)
        if isinstance(rule, Mapping):
            for issue in misnamed((), rule, resolver.names, self.data.excluded.keys()):
                raise ConfigError(f"{key}: expected {issue.expected}, found {issue.found}")
        return resolver.of((key,), rule)[list(self.order)]


def open_target(config: RunConfig, domains: Sequence[str]) -> Target:
    """Open the run that a mixture is for.

    Args:
        config: The run.
        domains: Of the law.

    Raises:
        ConfigError: If it has other domains.
        ShardError: If a shard is missing or damaged.
    """
    data = open_data(config)
    names = [domain.name for domain in data.domains]
    if sorted(names) != sorted(domains):
        raise config.invalid(
            "data",
            "domains",
            expected=f"those of the law, {', '.join(domains)}",
            found=", ".join(names),
        )
    return Target(config, data, tuple(names.index(name) for name in domains))
