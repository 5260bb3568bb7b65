"""From a configuration to the rule that sets the weights. Knows no torch."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.alignment.methods import Probing
from megadga.arrays import FloatArray
from megadga.build.basis import RunBasis
from megadga.build.dga import make_dga
from megadga.build.doge import make_doge
from megadga.build.extension import make_extension
from megadga.build.grape import make_grape
from megadga.build.probing import make_probing
from megadga.build.schedule import make_schedule
from megadga.build.weights import RunWeights
from megadga.config.extending import ExtensionMixing
from megadga.config.fixed import ProportionalMixing, UniformMixing
from megadga.config.grape import GrapeMixing
from megadga.config.histogram import read_histogram
from megadga.config.mixing import DgaMixing, ImportanceMixing, StaticMixing
from megadga.config.models import RunConfig
from megadga.config.rules import DogeMixing, DoremiMixing, OdmMixing, ScheduleMixing
from megadga.config.weights import TemperatureWeights, UnimaxWeights
from megadga.errors import ConfigError
from megadga.mixing.doremi import Doremi
from megadga.mixing.importance import importance_weights
from megadga.mixing.odm import Odm
from megadga.mixing.scheduler import Scheduler
from megadga.mixing.static import Static
from megadga.shards.domain import Domain

Fixed = StaticMixing | UniformMixing | ProportionalMixing | TemperatureWeights | UnimaxWeights


@dataclass(frozen=True)
class Mixture:
    """What sets the weights, and what it needs measured.

    Attributes:
        scheduler: The rule.
        interval: Optimizer steps between updates; None: there are none.
        probing: How alignments are measured for an update; None: there are none.
        lost_mass: Share of a histogram that fell into domains that are left out, in ``[0, 1)``.
        min_effective_domains: Effective domains below which the weights are cause for alarm.
    """

    scheduler: Scheduler
    interval: int | None = None
    probing: Probing | None = None
    lost_mass: float = 0.0
    min_effective_domains: float = 0.0


def make_mixture(
    config: RunConfig,
    domains: Sequence[Domain],
    *,
    left_out: AbstractSet[str] = frozenset(),
    basis: RunBasis | None = None,
) -> Mixture:
    """Return the run's mixture over its domains.

    Args:
        config: The run.
        domains: Its training domains.
        left_out: Names of those that are too short for a window. What a histogram has there goes
            to the others, in proportion; a weight that is written in the configuration must not
            name them.
        basis: What the rule lives on in the domains' place, if the configuration says so.

    Raises:
        ConfigError: If weights or a histogram do not name exactly the domains, a setting is out of
            range for their number, or they hold too little for the run under `max_epochs`.
    """
    weights = RunWeights(config, domains, left_out)
    match config.mixing:
        case DgaMixing() as mixing:
            mixture = Mixture(
                make_dga(mixing, weights, basis),
                mixing.interval,
                make_probing(mixing.probe, mixing.without_moments),
                min_effective_domains=mixing.min_effective_domains,
            )
        case GrapeMixing() as mixing:
            mixture = Mixture(
                make_grape(mixing, weights), mixing.interval, make_probing(mixing.probe)
            )
        case (
            StaticMixing()
            | UniformMixing()
            | ProportionalMixing()
            | TemperatureWeights()
            | UnimaxWeights()
        ) as mixing:
            mixture = Mixture(Static(_fixed(mixing, weights)))
        case ExtensionMixing() as mixing:
            scheduler, probing = make_extension(mixing, weights)
            mixture = Mixture(scheduler, mixing.interval, probing)
        case ImportanceMixing() as mixing:
            mixture = _importance(mixing.histogram, weights)
        case ScheduleMixing() as mixing:
            mixture = Mixture(make_schedule(mixing, weights), mixing.interval)
        case OdmMixing() as mixing:
            mixture = Mixture(_odm(mixing, weights), mixing.interval)
        case DogeMixing() as mixing:
            mixture = Mixture(
                make_doge(mixing, weights), mixing.interval, make_probing(mixing.probe)
            )
        case DoremiMixing() as mixing:
            mixture = Mixture(_doremi(mixing, weights), mixing.interval)
    _check_supply(config, domains, mixture.scheduler.init().averaged_weights)
    return mixture


def _fixed(mixing: Fixed, weights: RunWeights) -> FloatArray:
    """Return weights that stay as they are, shape ``(K,)``."""
    match mixing:
        case StaticMixing():
            return weights.of(("mixing", "weights"), mixing.weights)
        case UniformMixing() | ProportionalMixing():
            return weights.of(("mixing",), mixing.type)
        case TemperatureWeights() | UnimaxWeights():
            return weights.of(("mixing",), mixing)


def _odm(mixing: OdmMixing, weights: RunWeights) -> Odm:
    return Odm(
        weights.of(("mixing", "initial"), mixing.initial),
        smoothing=mixing.smoothing,
        warmup=mixing.warmup,
        reward=mixing.reward,
    )


def _doremi(mixing: DoremiMixing, weights: RunWeights) -> Doremi:
    return Doremi(
        weights.of(("mixing", "initial"), mixing.initial),
        step_size=mixing.step_size,
        smoothing=mixing.smoothing,
    )


def _importance(path: Path, run: RunWeights) -> Mixture:
    """Return the mixture that gives each domain its share of the histogram in a file."""
    histogram = read_histogram(path)
    kept = {name: mass for name, mass in histogram.items() if name not in run.left_out}
    try:
        weights = importance_weights(kept, run.names)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    lost = sum(histogram[name] for name in histogram.keys() & run.left_out)
    return Mixture(Static(weights), lost_mass=lost / (lost + sum(kept.values())))


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
