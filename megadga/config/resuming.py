"""What may change when a run is resumed: one table of keys, and what each change does.

The keys are those of a checkpoint's identity: of the configuration, ``ranks``, and ``shards``, the
digest of the data. The first row whose pattern fits a key decides.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, cast, final

from megadga.config.run import RunConfig
from megadga.config.validation import leaves
from megadga.errors import ResumeError
from megadga.section import dotted, format_value

Verdict = Literal["free", "allow", "refused", "mixture"]
"""free: may change; allow: with ``--allow KEY``; refused: never; mixture: never, as the mixture's
state would have to be carried over."""


Needs = Literal["", "options", "layout"]
"""What a resume has to do for it: options: give the optimizer and its schedule their new settings;
layout: read the optimizer's states by parameter, as they are divided otherwise."""


@final
@dataclass(frozen=True)
class Row:
    """What the table says of some keys.

    Attributes:
        patterns: Dotted keys, where ``*`` stands for anything.
        verdict: Whether they may change.
        effect: What happens then, or why they may not.
        needs: What a resume has to do for it.
    """

    patterns: tuple[str, ...]
    verdict: Verdict
    effect: str
    needs: Needs = ""


_OPTIMIZER = "deepspeed.optimizer.params"
_ZERO = "deepspeed.zero_optimization"


TABLE: tuple[Row, ...] = (
    # What divides the states among ranks, and computes the same.
    Row(
        ("ranks",),
        "free",
        "states are divided anew; sequences are the same, losses agree up to rounding; dropout, "
        "drawn by rank, differs",
        "layout",
    ),
    Row(
        (
            f"{_ZERO}.stage",
            f"{_ZERO}.sub_group_size",
            f"{_ZERO}.round_robin_gradients",
            f"{_ZERO}.parameter_alignment",
        ),
        "free",
        "states are divided anew; losses agree up to rounding",
        "layout",
    ),
    Row(
        (f"{_ZERO}.offload_optimizer*", f"{_ZERO}.offload_param*", f"{_ZERO}.cpu_offload*"),
        "free",
        "states move to where they are kept now, with the same bits",
        "layout",
    ),
    Row(
        (f"{_OPTIMIZER}.torch_adam", f"{_OPTIMIZER}.fused", f"{_OPTIMIZER}.foreach"),
        "free",
        "another implementation of the same optimizer goes on from its states",
        "layout",
    ),
    Row(
        (f"{_ZERO}.zero_quantized*", f"{_ZERO}.zenflow*", f"{_ZERO}.elastic_checkpoint"),
        "allow",
        "another arithmetic of communication or of the step",
        "layout",
    ),
    Row(
        (
            f"{_ZERO}*",
            "deepspeed.zero_force_ds_cpu_optimizer",
            "deepspeed.zero_allow_untested_optimizer",
            "deepspeed.aio*",
            "deepspeed.checkpoint*",
        ),
        "free",
        "buckets, thresholds and overlap: memory and speed alone",
    ),
    Row(
        ("training.micro_batch_size",),
        "free",
        "with the accumulation steps, for the same global batch; losses agree up to rounding",
    ),
    Row(
        ("model.activation_checkpointing", "deepspeed.activation_checkpointing*"),
        "free",
        "memory and speed alone",
    ),
    Row(("model.attention",), "free", "another implementation: losses agree up to rounding"),
    # What users tune while a run goes on.
    Row(
        ("training.steps",),
        "free",
        "the run ends there; a schedule whose total_num_steps is auto is as long",
        "options",
    ),
    Row(
        ("deepspeed.scheduler", "deepspeed.scheduler.*"),
        "free",
        "the rate is at once that of the new schedule at this step",
        "options",
    ),
    Row(
        (f"{_OPTIMIZER}.lr", f"{_OPTIMIZER}.weight_decay", f"{_OPTIMIZER}.betas*"),
        "free",
        "from the next step; AdamW's moments are kept",
        "options",
    ),
    Row(("deepspeed.gradient_clipping",), "free", "from the next step", "options"),
    Row(
        ("evaluation", "evaluation.*"),
        "free",
        "from the next evaluation; a guard of the mixture sees these",
    ),
    Row(("checkpoint", "checkpoint.*"), "free", "from the next checkpoint"),
    Row(("training.non_finite_limit",), "free", "from the next step"),
    Row(
        ("mixing.interval", "mixing.overhead"),
        "free",
        "updates are due at multiples of the new interval",
    ),
    Row(
        ("mixing.step_size", "mixing.task_step_size", "mixing.ema"),
        "free",
        "from the next update; weights and their average are kept",
    ),
    Row(
        (
            "mixing.general_guard*",
            "mixing.min_signal",
            "mixing.max_change",
            "mixing.min_effective_domains",
            "mixing.warmup",
            "mixing.freeze_after",
        ),
        "free",
        "from the next update; a guard that is switched on has seen no evaluation yet",
    ),
    # What the mixture's state belongs to: `changes_of_mixture`.
    Row(
        (
            "mixing.type",
            "mixing.filtered",
            "mixing.probe",
            "mixing.probe.type",
            "mixing.probe.direction",
            "mixing.probe.direction.*",
            "extension",
        ),
        "mixture",
        "the mixture's state is that of another rule or measurement",
    ),
    Row(("data.specific", "data.specific.*"), "mixture", "alignments are with these sets"),
    Row(
        ("shards.tokenizer", "shards.vocabulary_size", "shards.eod", "shards.architecture*"),
        "refused",
        "the weights are those of a model of this tokenizer and shape",
    ),
    Row(
        ("shards.held_out",),
        "allow",
        "the mixture's guard compares losses on these validation splits with earlier ones",
    ),
    Row(
        ("shards", "shards.*"),
        "mixture",
        "the order of the windows and the weights are of these domains and sets",
    ),
    # What makes it another run.
    Row(("seed",), "refused", "all that is random would be drawn anew, windows repeated"),
    Row(("sampling.method",), "refused", "windows would be repeated or left out"),
    Row(
        ("training.global_batch_size",),
        "refused",
        "the order of the windows is that of batches of this size",
    ),
    Row(
        ("model.initial_weights", "model.check_tokenizer"),
        "allow",
        "it is not read when a run is resumed",
    ),
    Row(("model.*",), "refused", "the weights are those of a model of this shape"),
    Row(
        ("deepspeed.optimizer.type", f"{_OPTIMIZER}.amsgrad"),
        "refused",
        "the states are those of another optimizer",
    ),
    # All else.
    Row(
        ("training.precision", "deepspeed.bf16*", "deepspeed.bfloat16*", "deepspeed.data_types*"),
        "allow",
        "goes on from the float32 weights and states, in another arithmetic",
        "layout",
    ),
    Row(("deepspeed.optimizer", f"{_OPTIMIZER}*"), "allow", "from the next step", "options"),
    Row(("*",), "allow", "it takes effect as if the run had always had it"),
)
"""Every key of a run; the last row is of what no other names."""


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
    """Return the changes after which the mixture's state is of another rule, sets or domains.

    They are refused: nothing carries the state over.
    """
    return tuple(each for each in changes.changes if each.row.verdict == "mixture")


def row_of(key: str) -> Row:
    """Return what the table says of a dotted key."""
    return next(row for row in TABLE if any(fnmatchcase(key, each) for each in row.patterns))


def table_lines() -> list[str]:
    """Return the table in Markdown, as the documentation has it."""
    verdicts = {
        "free": "yes",
        "allow": "with `--allow KEY`",
        "refused": "never",
        "mixture": "never (state of the mixture)",
    }
    rows = (
        f"| {', '.join(f'`{each}`' for each in row.patterns)} | {verdicts[row.verdict]} | "
        f"{row.effect} |"
        for row in TABLE
    )
    return ["| key | may change | what then happens, or why not |", "|---|---|---|", *rows]


def recorded(config: RunConfig) -> dict[str, Any]:
    """Return the part of a checkpoint's identity that comes from the configuration.

    The run's identity, and what does not affect training but is worth a line when it changes.
    """
    values = config.identity()
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


def run_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference that prevents resuming unless the user allows it."""
    return list(map(_difference, find_changes(expected, found).refused()))


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
        case "refused" | "mixture":
            return f"{where}: it may never change: {change.row.effect}"


def without_free_keys(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the keys that may change when a run is resumed."""
    return _without(identity, "")


def _without(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found[key] = _without(cast("Mapping[str, Any]", value), f"{path}.")
        elif row_of(path).verdict != "free":
            found[key] = value
    return found


def _difference(change: Change) -> str:
    old, new = (_shown(value) for value in (change.old, change.new))
    return f"{change.key}: expected {old}, found {new}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else format_value(value)
