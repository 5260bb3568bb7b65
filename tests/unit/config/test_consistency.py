from typing import Any

import pytest

from megadga.config.consistency import find_inconsistencies
from megadga.config.sections import TrainingSection
from megadga.config.validation import dotted

OPTIMIZER = {"type": "AdamW", "params": {"lr": 1e-3}}


def training(**changes: Any) -> TrainingSection:
    values = {"steps": 100, "global_batch_size": 16, "micro_batch_size": 4, "precision": "bf16"}
    return TrainingSection.model_validate({**values, **changes})


def complaints(run: TrainingSection, **settings: Any) -> list[str]:
    found = find_inconsistencies({"optimizer": OPTIMIZER, **settings}, run)
    return [f"{dotted(m.path)}: expected {m.expected}, found {m.found}" for m in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4},
        {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": None},
        {"train_batch_size": "auto", "gradient_accumulation_steps": 2},
        {"bf16": {"enabled": True}, "fp16": {"enabled": False}},
        {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}},
        {"bf16": {"check_grad_overflow": False}},
        {"bfloat16": {"enabled": True}},
        {"scheduler": {"type": "WarmupLR", "params": {}}},
        {"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 7}}},
        {"zero_optimization": {"stage": 3}},
        {"data_types": {"keep_in_fp32_modules": "auto"}},
    ],
)
def test_settings_that_agree_or_leave_open_are_no_contradiction(settings):
    assert complaints(training(), **settings) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train_batch_size", 12, "16 (training.global_batch_size)"),
        ("train_batch_size", "16", "16 (training.global_batch_size)"),
        ("train_micro_batch_size_per_gpu", 8, "4 (training.micro_batch_size)"),
        (
            "gradient_accumulation_steps",
            3,
            "a divisor of training.global_batch_size / training.micro_batch_size (16 / 4)",
        ),
        (
            "gradient_accumulation_steps",
            0,
            "a divisor of training.global_batch_size / training.micro_batch_size (16 / 4)",
        ),
        ("zero_optimization", 2, "a mapping"),
    ],
)
def test_batch_sizes_and_blocks_must_be_the_runs(key, value, expected):
    found = f"'{value}'" if isinstance(value, str) else value
    assert complaints(training(), **{key: value}) == [
        f"deepspeed.{key}: expected {expected}, found {found}"
    ]


def test_a_global_batch_is_a_multiple_of_the_micro_batch():
    assert complaints(training(global_batch_size=15)) == [
        (
            "training.global_batch_size: expected a multiple of training.micro_batch_size (4), "
            "found 15"
        )
    ]


@pytest.mark.parametrize(
    ("precision", "block", "enabled"),
    [
        ("bf16", "bf16", False),
        ("bf16", "bfloat16", False),
        ("bf16", "fp16", True),
        ("bf16", "torch_autocast", True),
        ("fp32", "bf16", True),
        ("fp16", "fp16", False),
        ("fp16", "bf16", True),
        ("fp32", "fp16", True),
        ("fp32", "torch_autocast", True),
    ],
)
def test_precision_is_the_runs(precision, block, enabled):
    expected, found = ("true", "false") if not enabled else ("false", "true")
    assert complaints(training(precision=precision), **{block: {"enabled": enabled}}) == [
        (
            f"deepspeed.{block}.enabled: expected {expected} (training.precision: {precision}), "
            f"found {found}"
        )
    ]


def test_an_optimizer_and_a_known_stage_are_needed():
    found = find_inconsistencies({"zero_optimization": {"stage": 4}}, None)
    assert [(dotted(m.path), m.found) for m in found] == [
        ("deepspeed.optimizer", "nothing"),
        ("deepspeed.zero_optimization.stage", "4"),
    ]


@pytest.mark.parametrize("name", ["WarmupCosineLR", "WarmupDecayLR", "WarmupStableDecayLR"])
def test_a_schedule_that_ends_says_when(name):
    scheduler = {"type": name, "params": {"warmup_num_steps": 3}}
    assert complaints(training(), scheduler=scheduler)[0] == (
        'deepspeed.scheduler.params.total_num_steps: expected a number of steps or "auto" '
        "(training.steps), found nothing"
    )


def test_what_other_trainers_fill_in_needs_a_value_here():
    settings: dict[str, Any] = {
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"},
        "gradient_clipping": "auto",
    }
    assert complaints(training(), **settings) == [
        f"deepspeed.{key}: expected an explicit value, found 'auto'"
        for key in (
            "optimizer.params.lr",
            "scheduler.params.warmup_num_steps",
            "zero_optimization.reduce_bucket_size",
            "gradient_clipping",
        )
    ]


def stable_decay(**params: Any) -> dict[str, Any]:
    known = {"total_num_steps": "auto", "warmup_num_steps": 10, "decay_num_steps": 20}
    return {"type": "WarmupStableDecayLR", "params": {**known, **params}}


def test_a_stable_decay_schedule_is_validated_here():
    assert complaints(training(), scheduler=stable_decay()) == []
    assert complaints(training(), scheduler=stable_decay(cos_min_ratio=0.1)) == [
        "deepspeed.scheduler.params.cos_min_ratio: expected a known key, found 'cos_min_ratio'"
    ]
    assert complaints(training(), scheduler=stable_decay(decay_num_steps=91)) == [
        (
            "deepspeed.scheduler.params.decay_num_steps: expected at most 90 (total - warm-up), "
            "found 91"
        )
    ]
    assert complaints(training(), scheduler=stable_decay(min_ratio=2)) == [
        "deepspeed.scheduler.params.min_ratio: expected a number less than or equal to 1, found 2"
    ]
