"""What differs between a checkpoint and the run that goes on from it, and whether it may."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast, final

from megadga.config.resuming import Row, row_of
from megadga.config.run import RunConfig
from megadga.config.validation import leaves
from megadga.errors import ResumeError
from megadga.section import dotted, format_value

_ALLOWED = "allowed"
"""Where an identity holds the keys that were allowed to change up to the checkpoint."""


_HELD_OUT = "shards.held_out"
"""The digest of the validation splits."""


_MAX_DIFFERENCES = 8
"""Differences listed in an error; configurations may differ in thousands of keys."""


@final
@dataclass(frozen=True)
class Change:
    """A key in which a checkpoint and the run that goes on from it differ.

    Attributes:
        key: The key, dotted.
        old: Its value in the checkpoint; None if there is none.
        new: Its value in this run; None if there is none.
        row: What the table says of it.
    """

    key: str
    old: Any
    new: Any
    row: Row

    def __str__(self) -> str:
        return f"{self.key}: {format_value(self.old)} -> {format_value(self.new)}"


@final
@dataclass(frozen=True)
class Layout:
    """How a checkpoint's states are divided.

    Attributes:
        ranks: Number of ranks, at least 1.
        zero_stage: ZeRO stage, from 0 to 3.
    """

    ranks: int
    zero_stage: int

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'' if self.ranks == 1 else 's'}"
        return f"{ranks}, ZeRO-{self.zero_stage}"


@final
@dataclass(frozen=True)
class ResumeChanges:
    """All that differs between a checkpoint and the run that goes on from it.

    Attributes:
        changes: The differing keys, in the order of the checkpoint's.
        before: Layout of the checkpoint.
        after: Layout of this run.
    """

    changes: tuple[Change, ...]
    before: Layout
    after: Layout

    @property
    def changes_layout(self) -> bool:
        """Whether the states have to be read by parameter, as they are divided otherwise."""
        return any(each.row.needs == "layout" for each in self.changes)

    @property
    def changes_options(self) -> bool:
        """Whether the optimizer or its schedule get settings that the checkpoint does not have."""
        return any(each.row.needs == "options" for each in self.changes)

    @property
    def event(self) -> dict[str, tuple[Any, Any]]:
        """Old and new value by key, as they are logged."""
        return {each.key: (each.old, each.new) for each in self.changes}

    def refused(self, allowed: Collection[str] = ()) -> tuple[Change, ...]:
        """Return the changes that this run may not go on with.

        Args:
            allowed: Keys that the user allows to change.
        """
        return tuple(
            each
            for each in self.changes
            if each.row.verdict != "free"
            and not (each.row.verdict == "allow" and each.key in allowed)
        )


def changes_of_mixture(changes: ResumeChanges) -> tuple[Change, ...]:
    """Return the changes for which the mixture's state is carried over."""
    return tuple(each for each in changes.changes if each.row.needs == "mixture")


def recorded(config: RunConfig) -> dict[str, Any]:
    """Return the part of a checkpoint's identity that comes from the configuration.

    The run's identity, and what does not affect training but is worth a line when it changes.
    """
    values = config.identity()
    values["data"] = {**values["data"], "groups": _groups(config)}
    training, evaluation = config.training, config.evaluation
    values["training"] |= {
        "steps": training.steps,
        "non_finite_limit": training.non_finite_limit,
    }
    values["evaluation"] = {
        "interval": None if evaluation is None else evaluation.interval,
        "sequences": None if evaluation is None else evaluation.sequences,
        "sets": [] if evaluation is None else sorted(evaluation.sets),
    }
    checkpoint = config.checkpoint
    values["checkpoint"] = {
        "interval": None if checkpoint is None else checkpoint.interval,
        "keep_last": None if checkpoint is None else checkpoint.keep_last,
    }
    return values


def _groups(config: RunConfig) -> str | dict[str, str]:
    """Return the size of each group and a digest of its names, of which there may be many."""
    groups = config.data.groups
    if isinstance(groups, str):
        return groups
    digests = {g: hashlib.sha256("\n".join(names).encode()) for g, names in groups.items()}
    return {g: f"{len(groups[g])} domains, {each.hexdigest()[:8]}" for g, each in digests.items()}


def run_identity(config: RunConfig, *, shards: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """Return all that a resume compares with the checkpoint.

    What determines the training result bit for bit: the number of ranks too, as DeepSpeed
    partitions optimizer states among them; and what is logged when it changes.

    Args:
        config: The run.
        shards: Digest of its data (``RunData.identity``).
        ranks: Number of ranks, at least 1.
    """
    return {**recorded(config), "shards": shards, "ranks": ranks}


def with_allowed(
    identity: Mapping[str, Any], before: Mapping[str, Any] | None, allowed: Collection[str]
) -> dict[str, Any]:
    """Return an identity that also says which keys were allowed to change up to here.

    A launcher that starts ranks again repeats its ``--allow``: what a checkpoint has gone on with
    before is then no mistake.

    Args:
        identity: This run's identity.
        before: That of the checkpoint that it goes on from; None: it is new.
        allowed: Keys that the user allows to change.
    """
    earlier = () if before is None else _allowed_before(before)
    return {**identity, _ALLOWED: sorted({*earlier, *allowed})}


def _allowed_before(identity: Mapping[str, Any]) -> list[str]:
    kept = identity.get(_ALLOWED)
    return [str(key) for key in cast("list[Any]", kept)] if isinstance(kept, list) else []


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> ResumeChanges:
    """Return what differs between two identities.

    Args:
        before: A checkpoint's identity.
        after: The identity of the run that goes on from it.
    """
    old, new = _values(before), _values(after)
    found = tuple(
        Change(key, old.get(key), new.get(key), row_of(key))
        for key in {**old, **new}
        if old.get(key) != new.get(key)
        # Noted for a mixture that reads evaluations, and only then.
        and not (key == _HELD_OUT and None in (old.get(key), new.get(key)))
    )
    return ResumeChanges(found, layout_of(before), layout_of(after))


def _values(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by dotted key; an empty section is as one that is not there."""
    kept = {key: value for key, value in identity.items() if key != _ALLOWED}
    return {dotted(path): None if value == {} else value for path, value in leaves(kept)}


def layout_of(identity: Mapping[str, Any]) -> Layout:
    """Return the layout of the states that a run of an identity saves.

    Raises:
        ResumeError: If it does not say.
    """
    ranks = identity.get("ranks", 1)
    stage = _at(identity, "deepspeed", "zero_optimization", "stage")
    if type(ranks) is int and ranks >= 1 and (stage is None or stage in range(4)):
        return Layout(ranks, stage or 0)
    raise ResumeError(
        "checkpoint: expected a number of ranks and a ZeRO stage, found "
        f"{format_value(ranks)} and {format_value(stage)}"
    )


def _at(section: Any, *keys: str) -> Any:
    """Return the value of a key in nested mappings, None if there is none."""
    for key in keys:
        section = cast("Mapping[str, Any]", section).get(key) if _is_mapping(section) else None
    return section


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def check_changes(changes: ResumeChanges, *, allowed: Collection[str], place: str) -> None:
    """Check that a run may go on from a checkpoint.

    Args:
        changes: What differs.
        allowed: Keys that the user allows to change.
        place: The checkpoint's header, for the error.

    Raises:
        ResumeError: If it is the checkpoint of another run; lists the differing keys with the
            checkpoint's and this run's values.
    """
    refused = changes.refused(allowed)
    if not refused:
        return
    named = "; ".join(map(_difference, refused[:_MAX_DIFFERENCES]))
    left = len(refused) - _MAX_DIFFERENCES
    more = f"; and {left} more" if left > 0 else ""
    if left <= 0 and all(each.row.verdict == "allow" for each in refused):
        more = f"; to go on with it: {' '.join(f'--allow {each.key}' for each in refused)}"
    raise ResumeError(f"{place}: belongs to another run: {named}{more}")


def check_allowed(
    allowed: Collection[str], changes: ResumeChanges | None, identity: Mapping[str, Any]
) -> None:
    """Check that ``--allow`` names keys that have changed, and that may change only with it.

    Args:
        allowed: Keys that the user allows to change.
        changes: What differs from the checkpoint; None: there is none to go on from.
        identity: The checkpoint's identity, or this run's if there is no checkpoint.

    Raises:
        ResumeError: If one is unknown, has not changed, may change without it or may never.
    """
    if changes is None and allowed:
        found = ", ".join(allowed)
        raise ResumeError(f"--allow: expected a checkpoint to go on from, found none for {found}")
    changed = {} if changes is None else {each.key: each for each in changes.changes}
    known = {dotted(path) for path, _ in leaves(identity)} | changed.keys()
    done = _allowed_before(identity)
    wrong = [
        line
        for key in allowed
        if (line := _needless(key, changed.get(key), known, done)) is not None
    ]
    if wrong:
        raise ResumeError("\n".join(wrong))


def _needless(
    key: str, change: Change | None, known: Collection[str], done: Collection[str]
) -> str | None:
    """Return what is wrong with a key of ``--allow``."""
    where = f"--allow {key}"
    if change is None and key in done:
        return None
    if change is None and key not in known:
        close = get_close_matches(key, sorted(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{where}: expected a key of the run, found none{hint}"
    if change is None:
        return f"{where}: expected a key that has changed, found it as in the checkpoint"
    match change.row.verdict:
        case "allow":
            return None
        case "free":
            return f"{where}: expected a key that may not change without it, found {change}"
        case "refused":
            return f"{where}: it may never change: {change.row.effect}"


def _difference(change: Change) -> str:
    old, new = (_shown(value) for value in (change.old, change.new))
    return f"{change.key}: expected {old}, found {new}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else format_value(value)
