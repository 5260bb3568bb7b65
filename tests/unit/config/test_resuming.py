import re
from pathlib import Path
from typing import Any

import pytest

from megadga.config.changes import (
    changes_of_mixture,
    check_allowed,
    check_changes,
    find_changes,
    run_identity,
    with_allowed,
)
from megadga.config.loading import load_config
from megadga.config.resuming import TABLE, row_of, table_lines
from megadga.errors import ResumeError
from tests.support.runs import RUN, write_run

DOCS = Path(__file__).parents[3] / "docs/reliability.md"
SHARDS: dict[str, Any] = {
    "tokenizer": "a1",
    "domains": {"d0": {"train": "b2"}},
    "specific": {"target": "c3"},
}


def identity(folder, *overrides, ranks=4, shards=SHARDS):
    config = load_config(write_run(folder, RUN), overrides)
    return run_identity(config, shards=shards, ranks=ranks)


def changes(folder, *overrides, ranks=4, shards=SHARDS):
    return find_changes(identity(folder), identity(folder, *overrides, ranks=ranks, shards=shards))


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=20",
        "training.micro_batch_size=1",
        "deepspeed.optimizer.params.lr=0.1",
        "deepspeed.optimizer.params.weight_decay=0.1",
        "deepspeed.optimizer.params.betas=[0.8, 0.9]",
        "deepspeed.gradient_clipping=0.0",
        "deepspeed.scheduler={type: WarmupLR, params: {warmup_num_steps: 3}}",
        "deepspeed.zero_optimization.stage=3",
        "deepspeed.zero_optimization.offload_optimizer={device: cpu}",
        "deepspeed.zero_optimization.reduce_bucket_size=1000",
        "model.activation_checkpointing=true",
        "mixing.interval=9",
        "mixing.step_size=9.0",
        "mixing.ema=0.5",
        "mixing.general_guard=null",
        "mixing.general_guard={max_rise: 0.3, pull: 0.5}",
        "mixing.floor=0.1",
        "mixing.filtered=false",
        "mixing={type: odm}",
        "data.specific.target.importance=2.0",
        "data.groups={code: [d0]}",
        "data.groups=parents",
        "evaluation.interval=3",
        "evaluation.sets={new: {path: elsewhere}}",
        "evaluation=null",
        "checkpoint.interval=3",
        "checkpoint=null",
    ],
)
def test_what_may_change_is_noted_and_not_refused(tmp_path, override):
    found = changes(tmp_path, override)
    assert found.changes
    assert found.refused() == ()
    assert all(old != new for old, new in found.event.values())


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=3", "seed"),
        ("model.sequence_length=16", "model.sequence_length"),
        ("model.hidden_size=64", "model.hidden_size"),
        ("sampling.method=multinomial", "sampling.method"),
        ("training.global_batch_size=16", "training.global_batch_size"),
        ("deepspeed.optimizer.type=Adam", "deepspeed.optimizer.type"),
    ],
)
def test_what_makes_another_run_is_refused_whatever_is_allowed(tmp_path, override, key):
    found = changes(tmp_path, override)
    assert [each.key for each in found.refused([key])] == [key]
    with pytest.raises(ResumeError, match=rf"--allow {re.escape(key)}: it may never change: "):
        check_allowed([key], found, identity(tmp_path))
    with pytest.raises(ResumeError, match=rf"header: belongs to another run: {re.escape(key)}: "):
        check_changes(found, allowed=[], place="header")


def test_other_shards_and_another_rule_need_the_mixtures_state(tmp_path):
    more = {**SHARDS, "domains": {**SHARDS["domains"], "d1": {"train": "e5"}}}
    found = changes(tmp_path, "mixing={type: odm}", shards=more)
    of_mixture = {each.key for each in changes_of_mixture(found)}
    assert {"mixing.type", "shards.domains.d1.train"} <= of_mixture
    assert found.refused() == ()


def test_all_else_goes_on_with_allow(tmp_path):
    found = changes(tmp_path, "sampling.max_epochs=4.0", "training.precision=bf16")
    with pytest.raises(ResumeError) as caught:
        check_changes(found, allowed=["sampling.max_epochs"], place="header")
    assert str(caught.value) == (
        "header: belongs to another run: training.precision: expected 'fp32', found 'bf16'; "
        "to go on with it: --allow training.precision"
    )
    both = ["sampling.max_epochs", "training.precision"]
    check_allowed(both, found, identity(tmp_path))
    check_changes(found, allowed=both, place="header")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mixing.flor", "expected a key of the run, found none; did you mean 'mixing.floor'?"),
        ("mixing.floor", "expected a key that has changed, found it as in the checkpoint"),
        (
            "mixing.ema",
            "expected a key that may not change without it, found mixing.ema: 1.0 -> 0.5",
        ),
    ],
)
def test_a_key_that_need_not_be_allowed_is_an_error(tmp_path, key, message):
    found = changes(tmp_path, "mixing.ema=0.5")
    with pytest.raises(ResumeError, match=f"^{re.escape(f'--allow {key}: {message}')}$"):
        check_allowed([key], found, identity(tmp_path))


def test_allow_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ResumeError, match="expected a checkpoint to go on from, found none for a"):
        check_allowed(["a"], None, identity(tmp_path))
    check_allowed([], None, identity(tmp_path))


def test_a_launcher_may_repeat_what_a_checkpoint_has_gone_on_with(tmp_path):
    before = with_allowed(identity(tmp_path), None, [])
    after = with_allowed(identity(tmp_path, "mixing.floor=0.1"), before, ["mixing.floor"])
    later = with_allowed(identity(tmp_path, "mixing.floor=0.1"), after, [])
    again = find_changes(later, identity(tmp_path, "mixing.floor=0.1"))
    assert again.changes == ()
    check_allowed(["mixing.floor"], again, later)


@pytest.mark.parametrize(
    ("override", "layout", "options"),
    [
        ("deepspeed.zero_optimization.stage=3", True, False),
        ("deepspeed.zero_optimization.offload_optimizer={device: cpu}", True, False),
        ("deepspeed.zero_optimization.overlap_comm=true", False, False),
        ("deepspeed.optimizer.params.lr=0.1", False, True),
        ("deepspeed.gradient_clipping=0.1", False, True),
        ("mixing.ema=0.5", False, False),
    ],
)
def test_the_table_says_what_a_resume_has_to_do(tmp_path, override, layout, options):
    found = changes(tmp_path, override)
    assert (found.changes_layout, found.changes_options) == (layout, options)


def test_other_ranks_change_the_layout(tmp_path):
    found = changes(tmp_path, ranks=2)
    assert found.changes_layout
    assert (str(found.before), str(found.after)) == ("4 ranks, ZeRO-1", "2 ranks, ZeRO-1")


@pytest.mark.parametrize("ranks", [0, "4", True, None, [4]])
def test_an_identity_without_a_layout_is_refused(tmp_path, ranks):
    with pytest.raises(ResumeError, match="expected a number of ranks and a ZeRO stage, found"):
        find_changes({**identity(tmp_path), "ranks": ranks}, identity(tmp_path))


def test_no_row_is_hidden_behind_an_earlier_one():
    for row in TABLE:
        assert all(row_of(pattern.replace("*", "")) is row for pattern in row.patterns), row


def test_the_documentation_has_the_table():
    text = DOCS.read_text()
    assert "\n".join(table_lines()) in text
