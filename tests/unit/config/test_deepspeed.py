import copy

import pytest

from megadga.config.deepspeed import deepspeed_settings, stable_decay
from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import write_run

BATCH = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
}


def test_settings_pass_through_with_batch_sizes_filled_in(tmp_path):
    config = load_config(write_run(tmp_path, steps_per_print=7, pipeline={"a": [1, None]}))
    assert deepspeed_settings(config, 2) == {**config.deepspeed, **BATCH}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_accumulation_makes_up_for_the_ranks(tmp_path, world_size):
    settings = deepspeed_settings(load_config(write_run(tmp_path)), world_size)
    assert settings["gradient_accumulation_steps"] == 4 // world_size


def test_the_runs_own_settings_stay_as_they_are(tmp_path):
    scheduler = {"type": "WarmupCosineLR", "params": {"total_num_steps": "auto"}}
    config = load_config(write_run(tmp_path, scheduler=scheduler, fp16={"enabled": "auto"}))
    before = copy.deepcopy(config.deepspeed)
    deepspeed_settings(config, 1)
    assert config.deepspeed == before


def test_a_world_that_the_batch_does_not_divide_among_is_refused(tmp_path):
    config = load_config(write_run(tmp_path))
    with pytest.raises(ConfigError) as error:
        deepspeed_settings(config, 3)
    assert str(error.value) == (
        f"{tmp_path}/run.yaml:11: training.global_batch_size: expected a multiple of "
        "training.micro_batch_size x ranks (2 x 3), found 8"
    )


def test_stated_accumulation_must_come_out_with_the_ranks(tmp_path):
    config = load_config(write_run(tmp_path, gradient_accumulation_steps=2))
    assert deepspeed_settings(config, 2)["gradient_accumulation_steps"] == 2
    with pytest.raises(ConfigError) as error:
        deepspeed_settings(config, 4)
    assert str(error.value) == (
        f"{tmp_path}/zero.json:12: deepspeed.gradient_accumulation_steps: expected 1 "
        "(training.global_batch_size / training.micro_batch_size / 4 ranks), found 2"
    )


@pytest.mark.parametrize(
    ("precision", "stated", "completed"),
    [
        ("fp32", {}, {}),
        ("bf16", {}, {"bf16": {"enabled": True}}),
        ("bf16", {"bf16": {"enabled": "auto"}}, {"bf16": {"enabled": True}}),
        ("fp32", {"bf16": {"enabled": "auto"}}, {"bf16": {"enabled": False}}),
        ("fp16", {}, {"fp16": {"enabled": True}}),
        (
            "fp16",
            {"fp16": {"initial_scale_power": 12}, "bf16": {"enabled": "auto"}},
            {"fp16": {"initial_scale_power": 12, "enabled": True}, "bf16": {"enabled": False}},
        ),
        (
            "bf16",
            {"fp16": {"enabled": "auto"}},
            {"bf16": {"enabled": True}, "fp16": {"enabled": False}},
        ),
        (
            "bf16",
            {"bf16": {"check_grad_overflow": False}},
            {"bf16": {"check_grad_overflow": False, "enabled": True}},
        ),
        ("bf16", {"bfloat16": {"enabled": "auto"}}, {"bfloat16": {"enabled": True}}),
    ],
)
def test_precision_is_filled_in_where_it_is_left_open(tmp_path, precision, stated, completed):
    config = load_config(write_run(tmp_path, **stated), [f"training.precision={precision}"])
    blocks = {"bf16", "bfloat16", "fp16"}
    settings = deepspeed_settings(config, 1)
    assert {name: settings[name] for name in blocks & settings.keys()} == completed


@pytest.mark.parametrize(("stated", "steps"), [("auto", 10), (7, 7)])
def test_an_open_schedule_lasts_as_long_as_the_run(tmp_path, stated, steps):
    scheduler = {"type": "WarmupCosineLR", "params": {"total_num_steps": stated}}
    settings = deepspeed_settings(load_config(write_run(tmp_path, scheduler=scheduler)), 1)
    assert settings["scheduler"]["params"] == {"total_num_steps": steps}


def test_a_stable_decay_schedule_is_kept_from_deepspeed_and_handed_out(tmp_path):
    params = {"total_num_steps": "auto", "warmup_num_steps": 2, "decay_num_steps": 3}
    scheduler = {"type": "WarmupStableDecayLR", "params": params}
    config = load_config(write_run(tmp_path, scheduler=scheduler))
    assert "scheduler" not in deepspeed_settings(config, 1)
    found = stable_decay(config)
    assert found is not None
    assert (found.total_num_steps, found.decay_num_steps, found.min_ratio) == (10, 3, 0.0)


def test_deepspeeds_own_schedules_are_left_to_it(tmp_path):
    assert stable_decay(load_config(write_run(tmp_path))) is None
