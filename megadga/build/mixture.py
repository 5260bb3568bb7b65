"""From a configuration to the rule that sets the weights. Knows no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.histogram import read_histogram
from megadga.config.mixing import (
    DgaMixing,
    ImportanceMixing,
    ShardedProbe,
    StaticMixing,
    TemperatureWeights,
    Weights,
)
from megadga.config.models import RunConfig
from megadga.config.places import KeyPath, Mistake
from megadga.errors import ConfigError
from megadga.mixing.dga import Dga
from megadga.mixing.importance import importance_weights
from megadga.mixing.scheduler import Scheduler
from megadga.mixing.static import (
    Static,
    proportional_weights,
    temperature_weights,
    uniform_weights,
)
from megadga.shards.domain import Domain

MOST_NAMED = 5
"""Domains that an error names: there may be thousands."""


@dataclass(frozen=True)
class Mixture:
    """What sets the weights, and what it needs measured.

    Attributes:
        scheduler: The rule.
        interval: Optimizer steps between updates; None: there are none.
        probe: How alignments are measured for an update; None: there are none.
    """

    scheduler: Scheduler
    interval: int | None = None
    probe: ShardedProbe | None = None


def make_mixture(config: RunConfig, domains: Sequence[Domain]) -> Mixture:
    """Return the run's mixture over its domains.

    Raises:
        ConfigError: If weights or a histogram do not name exactly the domains, a setting is out of
            range for their number, or they hold too little for the run under `max_epochs`.
    """
    match config.mixing:
        case DgaMixing() as mixing:
            mixture = Mixture(_dga(config, mixing, domains), mixing.interval, mixing.probe)
        case StaticMixing() as mixing:
            weights = _weights(config, "weights", mixing.weights, domains)
            mixture = Mixture(Static(weights))
        case ImportanceMixing() as mixing:
            names = [domain.name for domain in domains]
            mixture = Mixture(Static(_histogram_weights(mixing.histogram, names)))
    _check_supply(config, domains, mixture.scheduler.init().averaged_weights)
    return mixture


def _dga(config: RunConfig, mixing: DgaMixing, domains: Sequence[Domain]) -> Dga:
    if mixing.floor * len(domains) > 1.0:
        expected = f"at most 1 / {len(domains)} domains"
        raise config.mistake("mixing", "floor", expected=expected, found=str(mixing.floor))
    initial = _weights(config, "initial", mixing.initial, domains)
    prior = None
    if mixing.prior is not None:
        prior = _weights(config, "prior", mixing.prior, domains)
        if ((prior == 0.0) & (initial > 0.0)).any():
            expected = "a weight above 0 wherever mixing.initial has one"
            raise config.mistake("mixing", "prior", expected=expected, found="0")
    return Dga(
        initial=initial,
        step_size=mixing.step_size,
        ema=mixing.ema,
        score=mixing.score,
        floor=mixing.floor,
        prior=prior,
        prior_pull=mixing.prior_pull,
    )


def _weights(config: RunConfig, key: str, rule: Weights, domains: Sequence[Domain]) -> FloatArray:
    """Return the weights that a rule under ``mixing.<key>`` gives, shape ``(K,)``."""
    tokens = np.array([domain.num_tokens for domain in domains], dtype=np.int64)
    match rule:
        case "uniform":
            return uniform_weights(len(domains))
        case "proportional":
            return proportional_weights(tokens)
        case TemperatureWeights():
            return temperature_weights(tokens, rule.temperature)
        case _:
            mistakes = list(_misnamed(("mixing", key), rule, [domain.name for domain in domains]))
            if mistakes:
                raise config.error(mistakes)
            weights = np.array([rule[domain.name] for domain in domains], dtype=np.float64)
            return weights / weights.sum()


def _misnamed(
    path: KeyPath, weights: Mapping[str, float], names: Sequence[str]
) -> Iterator[Mistake]:
    known = set(names)
    unknown = [name for name in weights if name not in known]
    for name in unknown[:MOST_NAMED]:
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


def _histogram_weights(path: Path, names: Sequence[str]) -> FloatArray:
    """Return each domain's share of the histogram in a file, shape ``(K,)``."""
    try:
        return importance_weights(read_histogram(path), names)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_supply(config: RunConfig, domains: Sequence[Domain], weights: FloatArray) -> None:
    """Check that the domains hold enough sequences for the whole run under the cap."""
    if config.sampling.max_epochs is None:
        return
    sizes = np.array([domain.num_sequences for domain in domains])[weights > 0.0]
    wanted = config.training.steps * config.training.global_batch_size
    if np.floor(sizes * config.sampling.max_epochs).sum() < wanted:
        raise config.mistake(
            "sampling",
            "max_epochs",
            expected=f"at least {wanted / sizes.sum():.4g} for {wanted} sequences from domains "
            f"that hold {sizes.sum()}",
            found=str(config.sampling.max_epochs),
        )
