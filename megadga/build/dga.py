"""From the section of Dynamic Gradient Alignment to its rule. Knows no torch."""

from collections.abc import Callable

from megadga.arrays import FloatArray
from megadga.build.basis import RunBasis, weights_of_rows
from megadga.build.weights import RunWeights, importance_of_sets
from megadga.config.guards import GeneralGuardSection
from megadga.config.mixing import DgaMixing
from megadga.config.models import RunConfig
from megadga.config.steps import SpreadStep, StepSize
from megadga.config.weights import Weights
from megadga.mixing.dga import Dga
from megadga.mixing.general_guard import GeneralGuard
from megadga.mixing.guards import effective_domains
from megadga.mixing.over_basis import OverBasis
from megadga.mixing.over_targets import OverTargets
from megadga.mixing.scheduler import Scheduler
from megadga.mixing.step_size import AutoStep

ROUNDING = 1e-9
"""Relative error that an entropy may come with."""


def make_dga(mixing: DgaMixing, weights: RunWeights, basis: RunBasis | None) -> Scheduler:
    """Return the rule over the domains, or over basis distributions.

    Raises:
        ConfigError: If weights do not name exactly what the rule is over, or a setting is out of
            range for their number.
    """
    config = weights.config
    if basis is None:
        scheduler: Scheduler = _rule(
            config,
            mixing,
            lambda key, rule: weights.of(("mixing", key), rule),
            f"{len(weights.domains)} domains",
        )
    else:
        mixtures = basis.mixtures
        rule = _rule(
            config,
            mixing,
            lambda key, rule: weights_of_rows(config, key, rule, mixtures),
            f"{len(mixtures.names)} basis distributions",
        )
        scheduler = OverBasis(rule, mixtures)
    _check_alarm(config, mixing.min_effective_domains, scheduler)
    return scheduler


def _rule(
    config: RunConfig,
    mixing: DgaMixing,
    weights_of: Callable[[str, Weights], FloatArray],
    over: str,
) -> Scheduler:
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
    importance = importance_of_sets(config)
    rule = Dga(
        initial=initial,
        step_size=_step_size(mixing.step_size),
        ema=mixing.ema,
        score=mixing.score if importance.size == 1 else "raw",
        floor=mixing.floor,
        prior=prior,
        prior_pull=mixing.prior_pull,
        min_signal=mixing.min_signal,
        max_change=mixing.max_change,
        warmup=mixing.warmup,
        freeze_after=mixing.freeze_after,
        general_guard=_general_guard(mixing.general_guard),
    )
    if importance.size == 1:
        return rule
    return OverTargets(rule, importance, mixing.combine, mixing.score)


def _step_size(section: StepSize) -> float | AutoStep:
    return AutoStep(section.spread) if isinstance(section, SpreadStep) else section


def _general_guard(section: GeneralGuardSection | None) -> GeneralGuard | None:
    return None if section is None else GeneralGuard(section.max_rise, section.pull)


def _check_alarm(config: RunConfig, least: float, scheduler: Scheduler) -> None:
    """Check that the first mixture is above the alarm, which tells when one falls below."""
    first = effective_domains(scheduler.init().averaged_weights)
    # Of K equal weights, rounding may find a little less than K.
    if least > first * (1.0 + ROUNDING):
        expected = f"at most {first:.4g}, the effective domains of the first mixture"
        path = ("mixing", "min_effective_domains")
        raise config.mistake(*path, expected=expected, found=str(least))
