"""Makes the rule of an installed extension, and checks that a run can measure what it observes."""

from collections.abc import Iterator, Sequence
from typing import Any

from megadga.arrays import check_simplex
from megadga.config.mixing import ExtensionOptions
from megadga.mixers.base import AlignmentNeeds, LossNeeds, Needs, Scheduler, StepNeeds
from megadga.mixers.probing import DIRECTIONAL, InFlight, Probe
from megadga.mixers.rule import RuleContext
from megadga.section import ConfigIssue, format_value


def make_extension(
    mixing: ExtensionOptions, context: RuleContext, specific: Sequence[str]
) -> Scheduler:
    """Return an extension's rule.

    Args:
        mixing: The section.
        context: What the rule may need to know of the run.
        specific: Names of the specific sets.

    Raises:
        ConfigError: If the extension does not take the options, its rule is none over the domains,
            or it observes something else than the section, or the run, is made for.
    """
    scheduler = _make(mixing, context)
    needs = scheduler.observes
    if issues := list(_find_unobserved(mixing, specific, needs)):
        raise context.error(issues)
    if isinstance(needs, AlignmentNeeds):
        probe = mixing.probe or DIRECTIONAL
        if issues := list(_find_unmeasurable(probe, needs)):
            raise context.error(issues)
    return scheduler


def _make(mixing: ExtensionOptions, context: RuleContext) -> Scheduler:
    installed, extension = mixing.origin()
    try:
        scheduler: Any = extension.make(mixing, context)
    except ValueError as error:
        expected = f"options that {installed.distribution} accepts"
        raise context.invalid(expected=expected, found=str(error)) from None
    num_domains = len(context.domains)
    if found := _no_rule(scheduler, num_domains):
        expected = f"a rule over {num_domains} domains from {installed}"
        raise context.invalid("type", expected=expected, found=found)
    return scheduler


def _no_rule(scheduler: Any, num_domains: int) -> str:
    """Return what keeps an object from being a rule over the domains; empty: it is one."""
    try:
        weights = check_simplex(scheduler.init().averaged_weights)
    except (AttributeError, ValueError) as error:
        return str(error)
    return "" if weights.size == num_domains else f"weights of shape {weights.shape}"


def _find_unobserved(
    mixing: ExtensionOptions, specific: Sequence[str], needs: Needs | None
) -> Iterator[ConfigIssue]:
    """Yield what the rule observes otherwise than the section and the run have it."""
    path = ("mixing", "interval")
    if needs is None and mixing.interval is not None:
        yield ConfigIssue(path, "null: the rule never moves the weights", str(mixing.interval))
    if needs is not None and mixing.interval is None:
        yield ConfigIssue(path, "optimizer steps between updates of the weights", "nothing")
    match needs:
        case AlignmentNeeds(target="specific"):
            if len(specific) != 1:
                expected = f"exactly one set, which mixing.type {mixing.type} aligns to"
                found = ", ".join(specific) or "none"
                yield ConfigIssue(("data", "specific"), expected, found)
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
            yield ConfigIssue(("mixing", "type"), expected, f"one that observes {needs}")


def _no_probe(mixing: ExtensionOptions, observed: str) -> Iterator[ConfigIssue]:
    if mixing.probe is not None:
        expected = f"null: the rule observes {observed}, and no alignments"
        yield ConfigIssue(("mixing", "probe"), expected, f"type {mixing.probe.type}")


def _find_unmeasurable(probe: Probe, needs: AlignmentNeeds) -> Iterator[ConfigIssue]:
    """Yield what the probe cannot measure of what the rule needs."""
    section = ("mixing", "probe")
    if isinstance(probe, InFlight):
        other = "directional or sharded: the rule observes"
        if needs.norms:
            expected = f"{other} norms of the domains' gradients"
            yield ConfigIssue((*section, "type"), expected, format_value(probe.type))
        if needs.mixtures is not None:
            expected = f"{other} mixtures of domains"
            yield ConfigIssue((*section, "type"), expected, format_value(probe.type))
