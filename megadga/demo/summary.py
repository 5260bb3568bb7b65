"""What the demo's runs have come to, side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

from tabulate import tabulate

from megadga.errors import ConfigError
from megadga.report.history import START, averaged_weights
from megadga.report.records import counts_by_name, number_at, numbers_by_name, read_metrics


@dataclass(frozen=True)
class RunSummary:
    """Results of one run.

    Attributes:
        sequences: Training sequences drawn from each domain.
        specific_loss: Last validation loss of the specific set, nats per token.
        general_loss: Mean of the domains' last validation losses, nats per token.
        first_weights: Averaged weights at step 0, by domain.
        last_weights: The same at the end.
    """

    sequences: Mapping[str, int]
    specific_loss: float
    general_loss: float
    first_weights: Mapping[str, float]
    last_weights: Mapping[str, float]


def summarise_run(metrics: Path, specific: str) -> RunSummary:
    """Return the results of a finished run from its metrics.

    Args:
        metrics: The run's ``metrics.jsonl``.
        specific: Name of the specific set.

    Raises:
        ConfigError: If it says no weights at step 0, or no evaluation of the specific set.
    """
    sequences: Counter[str] = Counter()
    run = read_metrics(metrics)
    for record in run.of("train"):
        sequences.update(counts_by_name(metrics, record, "sequences_by_domain"))
    evaluations = run.of("evaluation")
    losses = numbers_by_name(metrics, evaluations[-1], "specific") if evaluations else {}
    if specific not in losses:
        raise ConfigError(f"{metrics}: expected an evaluation of {specific}, found none")
    if not (starts := run.events(START)):
        raise ConfigError(f"{metrics}: expected an event {START}, found none")
    return RunSummary(
        sequences=sequences,
        specific_loss=losses[specific],
        general_loss=number_at(metrics, evaluations[-1], "general"),
        first_weights=averaged_weights(metrics, starts[0]),
        last_weights=averaged_weights(metrics, (starts[0], *run.of("update"))[-1]),
    )


@dataclass(frozen=True)
class DomainSize:
    """Size of a domain's training split.

    Attributes:
        tokens: Number of tokens.
        sequences: Number of windows of the run's sequence length.
    """

    tokens: int
    sequences: int


def render_comparison(
    domains: Mapping[str, DomainSize], dga: RunSummary, uniform: RunSummary
) -> list[str]:
    """Return the lines of the demo's result: one row per domain, then the losses.

    Args:
        domains: What was trained on, by name.
        dga: The run whose weights moved.
        uniform: The run whose weights stayed uniform.
    """
    first, last = dga.first_weights, dga.last_weights
    rows = [("domain", "tokens", "first weight", "last weight", "epochs dga", "epochs uniform")]
    for name in sorted(domains, key=lambda name: -last[name]):
        size = domains[name]
        rows.append(
            (
                name,
                f"{size.tokens:,}",
                f"{first[name]:.3f}",
                f"{last[name]:.3f}",
                f"{dga.sequences.get(name, 0) / size.sequences:.2f}",
                f"{uniform.sequences.get(name, 0) / size.sequences:.2f}",
            )
        )
    return [*table(rows), "", *_losses(dga, uniform)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right.

    Args:
        rows: The header first; all of one length.
    """
    align = ("left", *("right" for _ in rows[0][1:]))
    plain = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    title, *lines = plain.split("\n")
    return [title, "-" * len(title), *lines]


def _losses(dga: RunSummary, uniform: RunSummary) -> list[str]:
    rows = [
        ("validation loss, nats per token", "dga", "uniform", "difference"),
        _loss_row("specific set", dga.specific_loss, uniform.specific_loss),
        _loss_row("mean of the domains", dga.general_loss, uniform.general_loss),
    ]
    ratio = exp(dga.specific_loss - uniform.specific_loss)
    return [*table(rows), "", f"Perplexity of the specific set: {ratio:.3f} of uniform's."]


def _loss_row(name: str, dga: float, uniform: float) -> tuple[str, str, str, str]:
    return name, f"{dga:.4f}", f"{uniform:.4f}", f"{dga - uniform:+.4f}"
