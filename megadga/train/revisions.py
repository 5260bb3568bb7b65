"""From the domains of a checkpoint to those of the run that goes on from it: what would happen."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray, IntArray
from megadga.config.changes import ResumeChanges, changes_of_mixture
from megadga.config.run import RunConfig
from megadga.data.content import ContentChange, Status, compare_contents, contents_of
from megadga.data.order import WindowOrder
from megadga.errors import ResumeError
from megadga.mixers.base import MixtureState, Scheduler
from megadga.mixers.basis import OverBasis
from megadga.mixers.carrying import MixtureChange, carried_state, entering_shares
from megadga.mixers.targets import OverTargets
from megadga.report.history import REVISION
from megadga.run_folder.domains import DomainRecord, domains_path
from megadga.train.data import RunData

MAX_ROWS = 40
"""Domains that the table lists; those that changed come first."""
_HEADERS = (
    *("domain", "", "tokens", "windows seen", "epochs before", "after"),
    *("tokens left", "weight before", "after"),
)
MAX_NAMED = 100
"""Names of a kind in an event: there may be hundreds of thousands."""


@final
@dataclass(frozen=True, eq=False)
class Revision:
    """What becomes of a run's domains and mixture.

    Attributes:
        content: How the domains follow from those before.
        before: The domains before, and how far they were.
        order: Order of the windows of the domains afterwards, ``K'`` of them.
        cursors: Windows drawn from each of them, shape ``(K',)``.
        tokens: Training tokens of each, shape ``(K',)``.
        change: What it means to the mixture.
        weights: Averaged weights afterwards, shape ``(K',)``.
        same_measurement: Whether what the measurement of alignments remembers has a meaning.
        same_mixing: Whether the rule has the same keys and files, and the same specific sets.
        rule: Kind of the rule afterwards.
        sequence_length: Tokens of a window (S).
    """

    content: ContentChange
    before: DomainRecord
    order: WindowOrder
    cursors: IntArray
    tokens: IntArray
    change: MixtureChange
    weights: FloatArray
    same_measurement: bool
    same_mixing: bool
    rule: str
    sequence_length: int

    @property
    def is_none(self) -> bool:
        """Whether the run goes on exactly as it was."""
        return self.content.is_none and self.same_mixing

    @property
    def hash(self) -> str:
        """Digest of the domains afterwards and of what was done, 16 hexadecimal digits."""
        digest = hashlib.sha256(self.rule.encode())
        for names in (self.content.names, self.content.statuses, self.content.left):
            digest.update("\n".join(names).encode() + b"\0")
        for array in (self.order.sizes, self.cursors, self.tokens):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    @property
    def windows_left(self) -> IntArray:
        """Windows of each domain that its running epoch has not drawn yet, shape ``(K',)``."""
        return self.order.sizes - (self.cursors - self.order.starts) % self.order.sizes

    def event(self) -> dict[str, Any]:
        """Return the record of the revision."""
        named = {
            status: _listed(self.content.with_status(status))
            for status in ("grown", "replaced", "entered")
        }
        gone = tuple(n for n in self.content.left if n not in set(self.content.names))
        named["left"] = _listed(gone)
        weights = dict(zip(self.content.names, self.weights.tolist(), strict=True))
        shown = [*named["grown"], *named["replaced"], *named["entered"]]
        return {
            "event": REVISION,
            "hash": self.hash,
            "domains": len(self.content.names),
            **named,
            "weights": {name: weights[name] for name in shown if name in weights},
            "rule": self.rule if self.change.same_rule else f"{self.before.rule} -> {self.rule}",
            "same_specific_sets": self.change.same_targets,
        }


def _listed(names: tuple[str, ...]) -> list[str]:
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return [*names[:MAX_NAMED], *more]


def plan_revision(
    config: RunConfig,
    data: RunData,
    scheduler: Scheduler,
    record: DomainRecord,
    identity: Mapping[str, Any],
) -> Revision:
    """Return what becomes of a checkpoint's domains and mixture in a run that goes on from it.

    Args:
        config: The run.
        data: Its data.
        scheduler: Its rule, over its domains.
        record: The checkpoint's domains.
        identity: The checkpoint's identity.

    Raises:
        ResumeError: If none of the checkpoint's domains is left.
        ConfigError: If `data.entering` does not name exactly the domains that enter.
    """
    content = _fitting(compare_contents(record.contents, data.prefixes), record, data)
    if not (content.sources >= 0).any():
        raise ResumeError(
            f"{config.output}: expected at least one domain of the checkpoint, unchanged or "
            f"grown, found none: {len(content.left)} left, {len(content.names)} entered; train "
            "a new run on other data (model.initial_weights starts from this one's)"
        )
    sizes = np.array([domain.num_sequences for domain in data.domains], dtype=np.int64)
    order, cursors = record.order, record.cursors
    if not content.is_none:
        revised = record.order.revised(record.cursors, content.sources, sizes)
        order, cursors = revised.order, revised.cursors
    change = _mixture_change(config, data, scheduler, record, identity, content)
    old, new = identity["mixing"], config.identity()["mixing"]
    same_rule, same_targets = change.same_rule, change.same_targets
    digests = ("histogram", "basis", "schedule", "reference")
    same_files = all(identity["shards"].get(k) == data.identity.get(k) for k in digests)
    return Revision(
        content=content,
        before=record,
        order=order,
        cursors=cursors,
        tokens=contents_of(data.prefixes).tokens,
        change=change,
        weights=_weights(scheduler, record, change),
        same_measurement=same_rule and same_targets and old.get("probe") == new.get("probe"),
        same_mixing=old == new and same_rule and same_targets and same_files,
        rule=rule_name(scheduler),
        sequence_length=config.model.sequence_length,
    )


def check_unrevised(changes: ResumeChanges, checkpoint: Path) -> None:
    """Check that nothing is to be carried over from a checkpoint without a record of its domains.

    Args:
        changes: What differs from the checkpoint.
        checkpoint: The checkpoint's folder.

    Raises:
        ResumeError: If domains, specific sets or the rule have changed.
    """
    if found := changes_of_mixture(changes):
        raise ResumeError(
            f"{domains_path(checkpoint)}: expected the checkpoint's domains, to carry their state "
            "over, found no such file: it is of an earlier version; resume it unchanged first "
            f"({found[0]})"
        )


def rule_name(scheduler: Scheduler) -> str:
    """Return the kind of a rule: rules of one kind remember the same things."""
    match scheduler:
        case OverBasis():
            rows = hashlib.sha256("\n".join(scheduler.mixtures.names).encode()).hexdigest()[:8]
            return f"{rule_name(scheduler.rule)} over the basis {rows}"
        case OverTargets():
            return f"{rule_name(scheduler.rule)} for several sets"
        case _:
            return type(scheduler).__name__


def _fitting(content: ContentChange, record: DomainRecord, data: RunData) -> ContentChange:
    """Return the change with domains replaced whose windows are others though their shards fit."""
    sizes = np.array([domain.num_sequences for domain in data.domains], dtype=np.int64)
    before = record.order.sizes[content.sources]
    kept = np.array([status == "kept" for status in content.statuses])
    other = (content.sources >= 0) & ((sizes < before) | (kept & (sizes != before)))
    if not other.any():
        return content
    statuses: tuple[Status, ...] = tuple(
        "replaced" if each else status
        for each, status in zip(other.tolist(), content.statuses, strict=True)
    )
    sources = np.where(other, -1, content.sources)
    used = {record.contents.names[source] for source in sources.tolist() if source >= 0}
    left = tuple(name for name in record.contents.names if name not in used)
    return ContentChange(content.names, statuses, sources, left)


def _mixture_change(
    config: RunConfig,
    data: RunData,
    scheduler: Scheduler,
    record: DomainRecord,
    identity: Mapping[str, Any],
    content: ContentChange,
) -> MixtureChange:
    tokens = contents_of(data.prefixes).tokens
    entering = config.data.entering
    try:
        shares = entering_shares(entering, content.names, tokens, content.sources)
    except ValueError as error:
        expected, _, found = str(error).removeprefix("expected ").rpartition(", found ")
        raise config.invalid("data", "entering", expected=expected, found=found) from None
    same_targets = list(identity["shards"]["specific"].items()) == list(
        data.identity["specific"].items()
    ) and identity["data"].get("specific") == config.identity()["data"].get("specific")
    return MixtureChange(
        sources=content.sources,
        num_before=len(record.contents.names),
        entering=shares,
        step=record.step,
        same_rule=record.rule == rule_name(scheduler),
        same_targets=same_targets,
        same_validation=content.in_order,
    )


def _weights(scheduler: Scheduler, record: DomainRecord, change: MixtureChange) -> FloatArray:
    state = MixtureState(
        record.weights,
        record.averaged_weights,
        record.num_updates,
        record.num_skipped,
        record.basis,
    )
    return carried_state(scheduler, state, change).averaged_weights


def describe_revision(revision: Revision) -> Iterator[str]:
    """Yield lines about a revision: what becomes of each domain, most changed first."""
    content, change = revision.content, revision.change
    counts = {s: len(content.with_status(s)) for s in ("kept", "grown", "replaced", "entered")}
    gone = [name for name in content.left if name not in set(content.names)]
    listed = ", ".join(f"{number:,} {status}" for status, number in counts.items() if number)
    left = f", {len(gone):,} left" if gone else ""
    yield f"domains     {listed}{left}; revision {revision.hash}"
    if not change.same_rule:
        yield f"rule        {revision.before.rule} -> {revision.rule}, from the present weights"
    if not change.same_targets:
        yield "specific    other sets: what was learned about alignments with them starts anew"
    yield ""
    yield from tabulate(
        _rows(revision, gone),
        headers=_HEADERS,
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "left", *("right",) * 7),
    ).split("\n")
    total = len(content.names) + len(gone)
    if total > MAX_ROWS:
        yield f"and {total - MAX_ROWS:,} domains more"


def _rows(revision: Revision, gone: list[str]) -> list[tuple[str, ...]]:
    content, before = revision.content, revision.before
    rank = {"replaced": 0, "entered": 1, "grown": 2, "kept": 4}
    places = {name: place for place, name in enumerate(before.contents.names)}
    old_epochs = before.order.epochs(before.cursors)
    epochs = revision.order.epochs(revision.cursors)
    left = revision.windows_left * revision.sequence_length
    lines: list[tuple[int, tuple[str, ...]]] = []
    chosen = sorted(range(len(content.names)), key=lambda i: rank[content.statuses[i]])[:MAX_ROWS]
    for index in chosen:
        name, status = content.names[index], content.statuses[index]
        source = places.get(name)
        lines.append(
            (
                rank[status],
                (
                    name,
                    status,
                    f"{revision.tokens[index]:,}",
                    f"{revision.cursors[index]:,}",
                    "" if source is None else f"{old_epochs[source]:.3f}",
                    f"{epochs[index]:.3f}",
                    f"{left[index]:,}",
                    "" if source is None else f"{before.averaged_weights[source]:.4f}",
                    f"{revision.weights[index]:.4f}",
                ),
            )
        )
    for name in gone[:MAX_ROWS]:
        source = places[name]
        tokens, cursor = before.contents.tokens[source], before.cursors[source]
        epoch, weight = old_epochs[source], before.averaged_weights[source]
        row = (name, "left", f"{tokens:,}", f"{cursor:,}", f"{epoch:.3f}", "", "", f"{weight:.4f}")
        lines.append((3, (*row, "")))
    return [row for _, row in sorted(lines, key=lambda line: line[0])][:MAX_ROWS]
