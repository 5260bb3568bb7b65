"""What may change when a run is resumed: one table of keys, and what each change does.

The keys are those of a checkpoint's identity: of the configuration, ``ranks``, and ``shards``, the
digest of the data. The first row whose pattern fits a key decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, cast, final

Verdict = Literal["free", "allow", "refused"]
"""free: may change; allow: with ``--allow KEY``; refused: never."""


Needs = Literal["", "options", "layout", "mixture"]
"""What a resume has to do for it: options: give the optimizer and its schedule their new settings;
layout: read the optimizer's states by parameter, as they are divided otherwise; mixture: carry the
mixture's state over to another rule, other specific sets or domains."""


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
    Row(
        ("model.attention", "model.compile"),
        "free",
        "another implementation: losses agree up to rounding",
    ),
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
        ),
        "free",
        "another rule starts from the present weights; another measurement keeps them",
        "mixture",
    ),
    Row(
        ("extension*",),
        "allow",
        "another version of the package that the rule is from goes on from the rule's state",
    ),
    Row(
        ("mixing", "mixing.*"),
        "free",
        "from the next update; weights and what the rule remembers are kept",
    ),
    Row(("data.groups", "data.groups.*"), "free", "what views sum over, also of the steps before"),
    Row(
        ("data.specific", "data.specific.*"),
        "free",
        "weights are kept; what the rule remembers of alignments with other sets starts anew",
        "mixture",
    ),
    Row(
        ("shards.tokenizer", "shards.vocabulary_size", "shards.eod", "shards.architecture*"),
        "refused",
        "the weights are those of a model of this tokenizer and shape",
    ),
    Row(
        ("shards.reference*",),
        "allow",
        "excess losses are above those of another model from the next step",
    ),
    Row(
        ("shards.held_out",),
        "free",
        "a guard begins anew if the domains are others",
        "mixture",
    ),
    Row(
        ("shards", "shards.*"),
        "free",
        "domains enter, grow, leave or are replaced: cursors, epochs and weights are carried over",
        "mixture",
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
        (
            "training.precision",
            "deepspeed.bf16*",
            "deepspeed.bfloat16*",
            "deepspeed.fp16*",
            "deepspeed.data_types*",
        ),
        "allow",
        "goes on from the float32 weights and states, in another arithmetic",
        "layout",
    ),
    Row(("deepspeed.optimizer", f"{_OPTIMIZER}*"), "allow", "from the next step", "options"),
    Row(("*",), "allow", "from the resume on"),
)
"""Every key of a run; the last row is of what no other names."""


def row_of(key: str) -> Row:
    """Return what the table says of a dotted key."""
    return next(row for row in TABLE if any(fnmatchcase(key, each) for each in row.patterns))


def table_lines() -> list[str]:
    """Return the table in Markdown, as the documentation has it."""
    verdicts = {
        "free": "yes",
        "allow": "with `--allow KEY`",
        "refused": "never",
    }
    rows = (
        f"| {', '.join(f'`{each}`' for each in row.patterns)} | {verdicts[row.verdict]} | "
        f"{row.effect} |"
        for row in TABLE
    )
    return ["| key | may change | what then happens, or why not |", "|---|---|---|", *rows]


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
