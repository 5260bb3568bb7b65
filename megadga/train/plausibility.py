"""Warnings about settings that are valid but probably not intended."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.deepspeed import optimizer_rate, peak_rate
from megadga.config.deepspeed_keys import optimizer_name
from megadga.config.run import RunConfig
from megadga.mixers.base import AlignmentNeeds, TargetNeeds
from megadga.section import ConfigIssue
from megadga.train.data import RunData
from megadga.train.mixture import Mixture

MAX_EPOCHS = 16.0
"""Epochs of a domain beyond which repetition has little value (arXiv 2305.16264)."""


LARGEST_RATE = 0.1
"""Learning rate above which optimizers with second-moment normalisation diverge."""


_SCALE_FREE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Lamb", "Lion")


def find_warnings(
    config: RunConfig, data: RunData, mixture: Mixture, epochs: FloatArray
) -> Iterator[ConfigIssue]:
    """Yield warnings about a run's configuration.

    Args:
        config: The run.
        data: Its data.
        mixture: Its mixture.
        epochs: Epochs of each domain at the initial weights, shape ``(K,)``.
    """
    yield from _intervals(config, mixture)
    yield from _starts(config)
    yield from _schedule(config)
    yield from _rates(config)
    yield from _draws(data, mixture)
    yield from _repetitions(data, epochs)
    yield from _same_folders(config)
    for path, found in data.ignored_spans.items():
        yield ConfigIssue(path, "chat", f"{found}: the loss is on all tokens of the dialogues")
    if config.evaluation is not None and not (data.held_out or data.held_out_specific):
        expected = "a validation split of at least one window in some set, or null"
        yield ConfigIssue(("evaluation",), expected, "none: nothing is evaluated")


def _intervals(config: RunConfig, mixture: Mixture) -> Iterator[ConfigIssue]:
    steps = config.training.steps
    if mixture.updates is not None and mixture.updates.count(steps) == 0:
        expected = f"at most training.steps ({steps}), or the weights never move"
        yield ConfigIssue(("mixing", "interval"), expected, str(mixture.updates.interval))
    yield from config.mixing.find_warnings(steps)
    for section, part in (("evaluation", config.evaluation), ("checkpoint", config.checkpoint)):
        if part is not None and part.interval > steps and config.is_set(section, "interval"):
            expected = f"at most training.steps ({steps}): there is one, at the end"
            yield ConfigIssue((section, "interval"), expected, str(part.interval))


def _starts(config: RunConfig) -> Iterator[ConfigIssue]:
    """Find settings that would take effect only after the end of the run."""
    steps = config.training.steps
    reweighting = config.training.loss_reweighting
    if reweighting is None:
        return
    path = ("training", "loss_reweighting")
    if reweighting.warmup >= steps:
        expected = f"less than training.steps ({steps}), or losses never count"
        yield ConfigIssue((*path, "warmup"), expected, str(reweighting.warmup))
    if isinstance(reweighting.temperature, tuple):
        for index, stage in enumerate(reweighting.temperature):
            if stage.step >= steps:
                expected = f"less than training.steps ({steps}), or it never holds"
                at = (*path, "temperature", index, "step")
                yield ConfigIssue(at, expected, str(stage.step))


def _schedule(config: RunConfig) -> Iterator[ConfigIssue]:
    """Find a learning-rate schedule whose length differs from the run's."""
    steps = config.training.steps
    params = config.deepspeed.get("scheduler", {}).get("params", {})
    path = ("deepspeed", "scheduler", "params")
    total, warmup = params.get("total_num_steps"), params.get("warmup_num_steps")
    if isinstance(total, int) and total != steps:
        expected = f'"auto", or training.steps ({steps})'
        yield ConfigIssue((*path, "total_num_steps"), expected, str(total))
    if isinstance(warmup, int) and warmup >= steps:
        expected = f"less than training.steps ({steps}), or the peak rate is never reached"
        yield ConfigIssue((*path, "warmup_num_steps"), expected, str(warmup))


def _rates(config: RunConfig) -> Iterator[ConfigIssue]:
    peak, rate = peak_rate(config), optimizer_rate(config)
    path = ("deepspeed", "optimizer", "params", "lr")
    if peak != rate and config.is_set(*path):
        kind = config.deepspeed["scheduler"]["type"]
        expected = f"the peak rate of the {kind} schedule ({peak:g}), which takes its place"
        yield ConfigIssue(path, expected, f"{rate:g}")
    elif peak == 0.0:
        yield ConfigIssue(path, "a number above 0, or the model does not train", "0")
    elif peak > LARGEST_RATE and optimizer_name(config.deepspeed) in _SCALE_FREE:
        expected = f"at most {LARGEST_RATE:g} for {optimizer_name(config.deepspeed)}"
        yield ConfigIssue(path, expected, f"{peak:g}")


def _draws(data: RunData, mixture: Mixture) -> Iterator[ConfigIssue]:
    """Find probes that draw the same sequence twice in one update."""
    needs = mixture.scheduler.observes
    if mixture.probe is None or not isinstance(needs, AlignmentNeeds | TargetNeeds):
        return
    probe, path = mixture.probe, ("mixing", "probe")
    among_domains = isinstance(needs, AlignmentNeeds) and needs.target == "domains"
    for target in () if among_domains else data.specific:
        if target.num_sequences < probe.specific_sequences:
            expected = f"at most {target.num_sequences}, the sequences of {target.name}"
            found = str(probe.specific_sequences)
            yield ConfigIssue((*path, "specific_sequences"), expected, found)
    if data.basis is not None:
        return
    sizes = np.array([domain.num_sequences for domain in data.domains])
    if (smaller := int((sizes < probe.sequences_per_domain).sum())) > 0:
        least = int(np.argmin(sizes))
        expected = f"at most {sizes[least]}, the sequences of {data.domains[least].name}"
        others = f" ({smaller - 1} more domains have too few)" if smaller > 1 else ""
        found = f"{probe.sequences_per_domain}{others}"
        yield ConfigIssue((*path, "sequences_per_domain"), expected, found)


def _repetitions(data: RunData, epochs: FloatArray) -> Iterator[ConfigIssue]:
    most = int(np.argmax(epochs))
    if epochs[most] <= MAX_EPOCHS:
        return
    several = int((epochs > MAX_EPOCHS).sum())
    others = f" (and {several - 1} more domains beyond {MAX_EPOCHS:g})" if several > 1 else ""
    name = data.domains[most].name
    expected = f"at most {MAX_EPOCHS:g} epochs of a domain at the first weights (a cap holds it)"
    yield ConfigIssue(
        ("sampling", "max_epochs"), expected, f"{epochs[most]:.3g} of {name}{others}"
    )


def _same_folders(config: RunConfig) -> Iterator[ConfigIssue]:
    """Find folders that are used as two domains, or as a domain and a specific set."""
    domains = config.data.domains
    seen: dict[Path, str] = {}
    if not isinstance(domains, Path):
        for index, domain in enumerate(domains):
            place = domain.path.resolve()
            if place in seen:
                path = ("data", "domains", index, "path")
                yield ConfigIssue(
                    path, "another folder than other domains have", f"{seen[place]}'s"
                )
            seen.setdefault(place, domain.name)
    for name, target in config.data.specific.items():
        place = target.path.resolve()
        inside = isinstance(domains, Path) and place.parent == domains.resolve()
        if place in seen or inside:
            path = ("data", "specific", name, "path")
            expected = "a folder that is no training domain"
            yield ConfigIssue(path, expected, f"the domain {seen.get(place, place.name)}")
