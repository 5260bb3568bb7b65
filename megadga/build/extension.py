"""From the section of an extension to its rule, and to how it is measured. Knows no rule."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from megadga.alignment.methods import Probing
from megadga.arrays import check_simplex
from megadga.build.probing import make_probing
from megadga.build.weights import RunWeights
from megadga.config.extending import ExtensionMixing
from megadga.config.extension import RuleContext
from megadga.config.models import RunConfig
from megadga.config.places import Mistake, shown
from megadga.config.probes import DirectionalProbe, InFlightProbe, Probe, ShardedProbe
from megadga.mixing.scheduler import AlignmentNeeds, LossNeeds, Needs, Scheduler, StepNeeds


def make_extension(
    mixing: ExtensionMixing, weights: RunWeights
) -> tuple[Scheduler, Probing | None]:
    """Return an extension's rule, and how its alignments are measured; None: it observes none.

    Args:
        mixing: The section.
        weights: Makes weights over the run's domains.

    Raises:
        ConfigError: If the extension does not take the options, its rule is none over the domains,
            or it observes something else than the section, or the run, is made for.
    """
    config = weights.config
    scheduler = _rule(mixing, weights)
    needs = scheduler.observes
    if mistakes := list(_unobserved(config, mixing, needs)):
        raise config.error(mistakes)
    if not isinstance(needs, AlignmentNeeds):
        return scheduler, None
    probe = DirectionalProbe() if mixing.probe is None else mixing.probe
    if mistakes := list(_unmeasurable(probe, needs)):
        raise config.error(mistakes)
    return scheduler, make_probing(probe)


def _rule(mixing: ExtensionMixing, weights: RunWeights) -> Scheduler:
    installed, extension = mixing.origin()
    config = weights.config
    tokens = np.array([domain.num_tokens for domain in weights.domains], dtype=np.int64)
    context = RuleContext(
        domains=tuple(weights.names),
        tokens=tokens,
        total_steps=config.training.steps,
        weights=lambda key, rule: weights.of(("mixing", key), rule),
    )
    try:
        scheduler: Any = extension.make(mixing, context)
    except ValueError as error:
        expected = f"options that {installed.distribution} accepts"
        raise config.mistake("mixing", expected=expected, found=str(error)) from None
    if found := _no_rule(scheduler, tokens.size):
        expected = f"a rule over {tokens.size} domains from {installed}"
        raise config.mistake("mixing", "type", expected=expected, found=found)
    return scheduler


def _no_rule(scheduler: Any, num_domains: int) -> str:
    """Return what keeps an object from being a rule over the domains; empty: it is one."""
    try:
        weights = check_simplex(scheduler.init().averaged_weights)
    except (AttributeError, ValueError) as error:
        return str(error)
    return "" if weights.size == num_domains else f"weights of shape {weights.shape}"


def _unobserved(
    config: RunConfig, mixing: ExtensionMixing, needs: Needs | None
) -> Iterator[Mistake]:
    """Yield what the rule observes otherwise than the section and the run have it."""
    path = ("mixing", "interval")
    if needs is None and mixing.interval is not None:
        yield Mistake(path, "null: the rule never moves the weights", str(mixing.interval))
    if needs is not None and mixing.interval is None:
        yield Mistake(path, "optimizer steps between updates of the weights", "nothing")
    match needs:
        case AlignmentNeeds(target="specific"):
            if len(config.data.specific) != 1:
                expected = f"exactly one set, which mixing.type {mixing.type} aligns to"
                found = ", ".join(config.data.specific) or "none"
                yield Mistake(("data", "specific"), expected, found)
        case None:
            yield from _no_probe(mixing, "nothing")
        case StepNeeds():
            yield from _no_probe(mixing, "the step")
        case LossNeeds(reference=False):
            yield from _no_probe(mixing, "losses of training")
        case _:
            expected = (
                "a rule that observes what a run measures: alignments with the specific set, "
                "losses of training, the step, or nothing"
            )
            yield Mistake(("mixing", "type"), expected, f"one that observes {needs}")


def _no_probe(mixing: ExtensionMixing, observed: str) -> Iterator[Mistake]:
    if mixing.probe is not None:
        expected = f"null: the rule observes {observed}, and no alignments"
        yield Mistake(("mixing", "probe"), expected, f"type {mixing.probe.type}")


def _unmeasurable(probe: Probe, needs: AlignmentNeeds) -> Iterator[Mistake]:
    """Yield what the probe cannot measure of what the rule needs."""
    section = ("mixing", "probe")
    if isinstance(probe, InFlightProbe):
        other = "directional or sharded: the rule observes"
        if needs.norms:
            expected = f"{other} norms of the domains' gradients"
            yield Mistake((*section, "type"), expected, shown(probe.type))
        if needs.mixtures is not None:
            expected = f"{other} mixtures of domains"
            yield Mistake((*section, "type"), expected, shown(probe.type))
    if isinstance(probe, ShardedProbe) or probe.direction == "full" or not needs.preconditioned:
        return
    expected = "'full': the rule observes a gradient that is divided element by element"
    yield Mistake((*section, "direction"), expected, shown(probe.direction.model_dump()))
