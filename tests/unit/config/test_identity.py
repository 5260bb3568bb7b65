import pytest

from megadga.config.changes import find_changes
from megadga.config.loading import load_config
from megadga.config.run import differences
from megadga.errors import ConfigError
from tests.support.runs import RUN, write_run

COSINE = {"type": "WarmupCosineLR", "params": {"total_num_steps": "auto", "warmup_num_steps": 2}}


@pytest.mark.parametrize(
    "override",
    [
        "output=elsewhere",
        "checkpoint={interval: 1, keep_last: 9}",
        "data.domains=moved",
        "data.specific.target.path=moved",
        "training.steps=20",
        "evaluation.sets={new: {path: elsewhere}}",
        "deepspeed.train_batch_size=8",
        "deepspeed.bf16={enabled: false}",
        "deepspeed.steps_per_print=100",
        "deepspeed.tensorboard={enabled: true}",
    ],
)
def test_what_does_not_change_the_trained_bits_is_no_difference(tmp_path, override):
    path = write_run(tmp_path)
    before, after = load_config(path), load_config(path, [override])
    assert differences(before.identity(), after.identity()) == []


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=3", "seed: expected 17, found 3"),
        ("model.sequence_length=16", "model.sequence_length: expected 8, found 16"),
        ("mixing.ema=0.5", "mixing.ema: expected 1.0, found 0.5"),
        (
            "mixing.overhead=0.5",
            "mixing.overhead: expected 0.01, found 0.5",
        ),
        ("mixing.prior_pull=0.5", "mixing.prior_pull: expected 0.0, found 0.5"),
        (
            "sampling.method=multinomial",
            "sampling.method: expected 'systematic', found 'multinomial'",
        ),
        ("training.micro_batch_size=4", "training.micro_batch_size: expected 2, found 4"),
        ("training.precision=bf16", "training.precision: expected 'fp32', found 'bf16'"),
        (
            "deepspeed.zero_optimization.stage=3",
            "deepspeed.zero_optimization.stage: expected 1, found 3",
        ),
        (
            "deepspeed.optimizer.params.lr=0.1",
            "deepspeed.optimizer.params.lr: expected 0.001, found 0.1",
        ),
        (
            "deepspeed.gradient_clipping=1.0",
            "deepspeed.gradient_clipping: expected nothing, found 1.0",
        ),
    ],
)
def test_what_changes_the_trained_bits_is_reported_by_key(tmp_path, override, difference):
    path = write_run(tmp_path)
    before, after = load_config(path), load_config(path, [override])
    assert differences(before.identity(), after.identity()) == [difference]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("evaluation.interval=3", {"evaluation.interval": (500, 3)}),
        ("evaluation.sequences=3", {"evaluation.sequences": (64, 3)}),
        (
            "evaluation=null",
            {"evaluation.interval": (500, None), "evaluation.sequences": (64, None)},
        ),
    ],
)
def test_evaluations_that_guard_a_run_may_change_and_do_not_go_unnoticed(
    tmp_path, override, changed
):
    path = write_run(tmp_path)
    before, after = (load_config(path, each).identity() for each in ([], [override]))
    assert find_changes(before, after).refused() == ()
    assert find_changes(before, after).event == changed


@pytest.mark.parametrize("override", ["evaluation.interval=3", "evaluation=null"])
def test_evaluations_of_a_run_without_a_guard_are_no_part_of_it(tmp_path, override):
    path = write_run(tmp_path)
    unguarded = "mixing.general_guard=null"
    before, after = (load_config(path, [unguarded, *each]).identity() for each in ([], [override]))
    assert differences(before, after) == []


def test_a_longer_run_is_the_same_one_and_says_how_its_schedule_has_changed(tmp_path):
    path = write_run(tmp_path, scheduler=COSINE)
    before, after = (load_config(path, [f"training.steps={n}"]).identity() for n in (10, 20))
    assert find_changes(before, after).refused() == ()
    changed = {"deepspeed.scheduler.params.total_num_steps": (10, 20)}
    assert find_changes(before, after).event == changed
    assert find_changes(before, before).event == {}


@pytest.mark.parametrize(
    "rule", ["{type: uniform}", "{type: odm}", "{type: doge, interval: 4, step_size: 1.0}"]
)
def test_sets_that_a_rule_does_not_align_to_may_come_and_go(tmp_path, rule):
    path, mixing = write_run(tmp_path), f"mixing={rule}"
    more = "data.specific.new={path: elsewhere}"
    before, after = load_config(path, [mixing]), load_config(path, [mixing, more])
    assert differences(before.identity(), after.identity()) == []


def test_evaluated_sets_have_names_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation\.sets\.target: expected names that no"):
        load_config(write_run(tmp_path), ["evaluation.sets={target: {path: elsewhere}}"])


def test_the_set_that_is_aligned_to_belongs_to_the_identity(tmp_path):
    before = load_config(write_run(tmp_path))
    after = load_config(write_run(tmp_path, RUN.replace("target:", "other:")))
    assert differences(before.identity(), after.identity()) == [
        "data.specific.target.packing: expected 'stream', found nothing",
        "data.specific.target.importance: expected 1.0, found nothing",
        "data.specific.other.packing: expected nothing, found 'stream'",
        "data.specific.other.importance: expected nothing, found 1.0",
    ]


def test_null_and_nothing_are_different():
    assert differences({"a": None, "b": {}}, {"b": {}}) == ["a: expected null, found nothing"]
