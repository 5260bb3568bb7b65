"""From a configuration to the rule that sets the weights. Knows no torch."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.alignment.methods import (
    Directional,
    InFlight,
    LowRank,
    Method,
    ProbeBudget,
    Probing,
    Sharded,
)
from megadga.arrays import FloatArray
from megadga.build.basis import RunBasis, weights_of_rows
from megadga.build.schedule import make_schedule
from megadga.build.weights import make_weights
from megadga.config.histogram import read_histogram
from megadga.config.mixing import DgaMixing, ImportanceMixing, StaticMixing
from megadga.config.models import RunConfig
from megadga.config.probes import (
    DirectionalProbe,
    EnergyDirection,
    InFlightProbe,
    Probe,
    RankDirection,
    ShardedProbe,
)
from megadga.config.rules import OdmMixing, ScheduleMixing
from megadga.config.steps import SpreadStep, StepSize
from megadga.config.weights import Weights
from megadga.errors import ConfigError
from megadga.mixing.dga import Dga
from megadga.mixing.guards import effective_domains
from megadga.mixing.importance import importance_weights
from megadga.mixing.odm import Odm
from megadga.mixing.over_basis import OverBasis
from megadga.mixing.scheduler import Scheduler
from megadga.mixing.static import Static
from megadga.mixing.step_size import AutoStep
from megadga.shards.domain import Domain

ROUNDING = 1e-9
"""Relative error that an entropy may come with."""


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
    match config.mixing:
        case DgaMixing() as mixing:
            scheduler = _dga(config, mixing, domains, left_out, basis)
            _check_alarm(config, mixing.min_effective_domains, scheduler)
            mixture = Mixture(
                scheduler,
                mixing.interval,
                _probing(mixing),
                min_effective_domains=mixing.min_effective_domains,
            )
        case StaticMixing() as mixing:
            weights = make_weights(
                config, ("mixing", "weights"), mixing.weights, domains, left_out
            )
            mixture = Mixture(Static(weights))
        case ImportanceMixing() as mixing:
            mixture = _importance(mixing.histogram, domains, left_out)
        case ScheduleMixing() as mixing:
            schedule = make_schedule(config, mixing, domains, left_out)
            mixture = Mixture(schedule, mixing.interval)
        case OdmMixing() as mixing:
            mixture = Mixture(_odm(config, mixing, domains, left_out), mixing.interval)
    _check_supply(config, domains, mixture.scheduler.init().averaged_weights)
    return mixture


def _dga(
    config: RunConfig,
    mixing: DgaMixing,
    domains: Sequence[Domain],
    left_out: AbstractSet[str],
    basis: RunBasis | None,
) -> Scheduler:
    """Return the rule over the domains, or over basis distributions."""
    if basis is None:
        return _dga_rule(
            config,
            mixing,
            lambda key, rule: make_weights(config, ("mixing", key), rule, domains, left_out),
            f"{len(domains)} domains",
        )
    mixtures = basis.mixtures
    rule = _dga_rule(
        config,
        mixing,
        lambda key, rule: weights_of_rows(config, key, rule, mixtures),
        f"{len(mixtures.names)} basis distributions",
    )
    return OverBasis(rule, mixtures)


def _dga_rule(
    config: RunConfig,
    mixing: DgaMixing,
    weights_of: Callable[[str, Weights], FloatArray],
    over: str,
) -> Dga:
    """Return the rule, given the weights under a key of its section, and what they are over."""
    initial = weights_of("initial", mixing.initial)
    if mixing.floor * initial.size > 1.0:
        expected = f"at most 1 / {over}"
        raise config.mistake("mixing", "floor", expected=expected, found=str(mixing.floor))
    prior = None
    if mixing.prior is not None:
        prior = weights_of("prior", mixing.prior)
        if ((prior == 0.0) & (initial > 0.0)).any():
            expected = "a weight above 0 wherever mixing.initial has one"
            raise config.mistake("mixing", "prior", expected=expected, found="0")
    return Dga(
        initial=initial,
        step_size=_step_size(mixing.step_size),
        ema=mixing.ema,
        score=mixing.score,
        floor=mixing.floor,
        prior=prior,
        prior_pull=mixing.prior_pull,
        min_signal=mixing.min_signal,
        max_change=mixing.max_change,
        warmup=mixing.warmup,
        freeze_after=mixing.freeze_after,
    )


def _odm(
    config: RunConfig, mixing: OdmMixing, domains: Sequence[Domain], left_out: AbstractSet[str]
) -> Odm:
    return Odm(
        make_weights(config, ("mixing", "initial"), mixing.initial, domains, left_out),
        smoothing=mixing.smoothing,
        warmup=mixing.warmup,
        reward=mixing.reward,
    )


def _step_size(section: StepSize) -> float | AutoStep:
    return AutoStep(section.spread) if isinstance(section, SpreadStep) else section


def _check_alarm(config: RunConfig, least: float, scheduler: Scheduler) -> None:
    """Check that the first mixture is above the alarm, which tells when one falls below."""
    first = effective_domains(scheduler.init().averaged_weights)
    # Of K equal weights, rounding may find a little less than K.
    if least > first * (1.0 + ROUNDING):
        expected = f"at most {first:.4g}, the effective domains of the first mixture"
        path = ("mixing", "min_effective_domains")
        raise config.mistake(*path, expected=expected, found=str(least))


def _probing(mixing: DgaMixing) -> Probing:
    probe = mixing.probe
    budget = ProbeBudget(probe.sequences_per_domain, probe.specific_sequences)
    return Probing(_method(probe), budget, mixing.without_moments)


def _method(probe: Probe) -> Method:
    match probe:
        case DirectionalProbe():
            return Directional(_low_rank(probe))
        case InFlightProbe():
            return InFlight(_low_rank(probe), refresh_every=probe.refresh_every)
        case ShardedProbe():
            return Sharded()


def _low_rank(probe: DirectionalProbe | InFlightProbe) -> LowRank | None:
    interval = probe.direction_interval
    match probe.direction:
        case RankDirection(rank=rank):
            return LowRank(rank, interval=interval)
        case EnergyDirection(energy=energy, max_rank=rank):
            return LowRank(rank, energy, interval)
        case "full":
            return None


def _importance(path: Path, domains: Sequence[Domain], left_out: AbstractSet[str]) -> Mixture:
    """Return the mixture that gives each domain its share of the histogram in a file."""
    histogram = read_histogram(path)
    kept = {name: mass for name, mass in histogram.items() if name not in left_out}
    try:
        weights = importance_weights(kept, [domain.name for domain in domains])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    lost = sum(histogram[name] for name in histogram.keys() & left_out)
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
