"""What the demo found, as a table. Knows records and counts, no files of its own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

from megadga.errors import ConfigError
from megadga.report.records import (
    averaged_weights,
    by_name,
    counts_by_name,
    number,
    read_records,
)


@dataclass(frozen=True)
class RunSummary:
    """What one run came to.

    Attributes:
        sequences: Training sequences drawn from each domain.
        specific_loss: Last validation loss of the specific set, nats a token.
        general_loss: Mean of the domains' last validation losses, nats a token.
        last_weights: Averaged weights at the end; None if they never moved.
    """

    sequences: Mapping[str, int]
    specific_loss: float
    general_loss: float
    last_weights: Mapping[str, float] | None


def summarise_run(metrics: Path, specific: str) -> RunSummary:
    """Return what a finished run's metrics say.

    Args:
        metrics: The run's ``metrics.jsonl``.
        specific: Name of the specific set.

    Raises:
        ConfigError: If there is no evaluation, or none of the specific set.
    """
    sequences: Counter[str] = Counter()
    for record in read_records(metrics, "train"):
        sequences.update(counts_by_name(metrics, record, "sequences_by_domain"))
    evaluations = read_records(metrics, "evaluation")
    losses = by_name(metrics, evaluations[-1], "specific") if evaluations else {}
    if specific not in losses:
        raise ConfigError(f"{metrics}: expected an evaluation of {specific}, found none")
    updates = read_records(metrics, "update")
    return RunSummary(
        sequences=sequences,
        specific_loss=losses[specific],
        general_loss=number(metrics, evaluations[-1], "general"),
        last_weights=averaged_weights(metrics, updates[-1]) if updates else None,
    )


@dataclass(frozen=True)
class DomainSize:
    """How much of a domain there is to train on.

    Attributes:
        tokens: In its training split.
        sequences: Windows of the run's sequence length.
    """

    tokens: int
    sequences: int


def comparison(
    domains: Mapping[str, DomainSize], dga: RunSummary, uniform: RunSummary
) -> list[str]:
    """Return the lines of the demo's result: a row each domain, then the losses.

    Args:
        domains: What was trained on, by name.
        dga: The run whose weights started uniform and moved.
        uniform: The run whose weights stayed uniform.
    """
    last = dga.last_weights or {}
    rows = [("domain", "tokens", "first weight", "last weight", "epochs dga", "epochs uniform")]
    for name in sorted(domains, key=lambda name: -last.get(name, 0.0)):
        size = domains[name]
        rows.append(
            (
                name,
                f"{size.tokens:,}",
                f"{1.0 / len(domains):.3f}",
                f"{last.get(name, 0.0):.3f}",
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _losses(dga: RunSummary, uniform: RunSummary) -> list[str]:
    rows = [
        ("validation loss, nats a token", "dga", "uniform", "difference"),
        _loss_row("specific set", dga.specific_loss, uniform.specific_loss),
        _loss_row("mean of the domains", dga.general_loss, uniform.general_loss),
    ]
    ratio = exp(dga.specific_loss - uniform.specific_loss)
    return [*table(rows), "", f"Perplexity of the specific set: {ratio:.3f} of uniform's."]


def _loss_row(name: str, dga: float, uniform: float) -> tuple[str, str, str, str]:
    return name, f"{dga:.4f}", f"{uniform:.4f}", f"{dga - uniform:+.4f}"
