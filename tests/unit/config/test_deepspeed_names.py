"""DeepSpeed's own models and signatures are the reference for what a run's settings may say."""

import json
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime import config as deepspeed_config
from deepspeed.runtime import constants

from megadga.config import deepspeed_keys
from megadga.config.consistency import find_inconsistencies
from megadga.config.loading import load_config
from megadga.config.validation import dotted
from megadga.errors import ConfigError
from megadga.section import ConfigIssue
from tests.support import deepspeed_keys as derived
from tests.support.runs import write_run

OPTIMIZER = {"type": "AdamW", "params": {"lr": 1e-3}}
REMOVED = set(deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS)


def complaints(**settings: Any) -> list[ConfigIssue]:
    return list(find_inconsistencies({"optimizer": OPTIMIZER, **settings}, None))


def told(**settings: Any) -> list[tuple[str, str, str]]:
    found = complaints(**settings)
    return [(dotted(m.path).removeprefix("deepspeed."), m.found, m.hint) for m in found]


def test_the_keys_are_those_that_deepspeed_asks_for():
    assert derived.deepspeed_keys(REMOVED) == deepspeed_keys.KEYS
    assert deepspeed_keys.REMOVED == REMOVED
    assert set(deepspeed_config._REMOVED_ZERO_CONFIG_KEYS) == deepspeed_keys.REMOVED_OF_ZERO
    assert constants.GRADIENT_CLIPPING_DEFAULT == deepspeed_keys.DEFAULT_CLIPPING


def test_the_optimizers_are_those_of_deepspeed_and_torch():
    own = {name.lower(): kinds for name, kinds in deepspeed_keys.OPTIMIZERS.items()}
    assert own == derived.deepspeed_optimizers()
    foreign = {name.lower() for name in deepspeed_keys.FOREIGN_OPTIMIZERS}
    assert own.keys() | foreign == set(deepspeed_config.DEEPSPEED_OPTIMIZERS)
    theirs = {n: p for n, p in derived.torch_optimizers().items() if n.lower() not in own}
    assert {
        name: set(params) for name, params in theirs.items()
    } == deepspeed_keys.TORCH_OPTIMIZERS


def test_the_schedulers_are_those_of_deepspeed_and_torch():
    found = {
        name: (set(params), {each for each, by in params.items() if by is derived.REQUIRED})
        for name, params in derived.schedulers().items()
    }
    known = {name: (p.names, p.required) for name, p in deepspeed_keys.SCHEDULERS.items()}
    assert known == found


def test_default_learning_rates_are_those_of_the_signatures():
    for name, rate in derived.default_rates().items():
        known = deepspeed_keys.DEFAULT_RATES.get(name, deepspeed_keys.DEFAULT_RATE)
        assert known == rate, name
    params = derived.schedulers()
    assert params["WarmupDecayLR"]["warmup_max_lr"] == deepspeed_keys.DEFAULT_RATE
    assert params["WarmupLR"]["warmup_max_lr"] is None
    assert params["LRRangeTest"]["lr_range_test_min_lr"] == deepspeed_keys.DEFAULT_RATE


@pytest.mark.parametrize(
    ("settings", "key", "hint"),
    [
        ({"zero_optimisation": {"stage": 2}}, "zero_optimisation", "'zero_optimization'"),
        ({"gradiant_clipping": 1.0}, "gradiant_clipping", "'gradient_clipping'"),
        ({"Gradient_Clipping": 1.0}, "Gradient_Clipping", "'gradient_clipping'"),
        ({"lr": 1e-3}, "lr", "'optimizer.params.lr'"),
        ({"stage": 2}, "stage", "'zero_optimization.stage'"),
        (
            {"zero_optimization": {"stag": 2}},
            "zero_optimization.stag",
            "'stage'",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}},
            "zero_optimization.offload_optimizer.devise",
            "'device'",
        ),
        ({"timers": {"throughput": {"enable": True}}}, "timers.throughput.enable", "'enabled'"),
        (
            {"activation_checkpointing": {"partition_activation": True}},
            "activation_checkpointing.partition_activation",
            "'partition_activations'",
        ),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_steps": 5}}},
            "scheduler.params.warmup_steps",
            "'warmup_num_steps'",
        ),
        ({"scheduler": {"typ": "WarmupLR"}}, "scheduler.typ", "'type'"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one(settings, key, hint):
    assert (key, repr(key.rpartition(".")[2]), hint) in told(**settings)


@pytest.mark.parametrize(
    ("optimizer", "key", "found", "hint"),
    [
        ({"type": "AdamZ", "params": {}}, "type", "'AdamZ'", "'Adam'"),
        ({"type": "sgd", "params": {"lr": 0.1}}, "type", "'sgd'", "'SGD'"),
        ({"type": "AdamW", "params": {"lrr": 0.1}}, "params.lrr", "'lrr'", "'lr'"),
        ({"type": "SGD", "params": {"beta": 0.1}}, "params.beta", "'beta'", ""),
        (
            {"type": "Muon", "params": {"momentun": 1}},
            "params.momentun",
            "'momentun'",
            "'momentum'",
        ),
        (
            {"type": "adam", "params": {"max_grad_norm": 1}},
            "params.max_grad_norm",
            "'max_grad_norm'",
            "'gradient_clipping'",
        ),
        # What only torch's implementation takes.
        ({"type": "adamw", "params": {"foreach": True}}, "params.foreach", "'foreach'", ""),
        ({"params": {"lr": 0.1}}, "type", "nothing", ""),
        ({"type": "AdamW", "params": {"lr": "1e-3"}}, "params.lr", "'1e-3'", ""),
        ({"type": "AdamW", "params": [1]}, "params", "[1]", ""),
    ],
)
def test_optimizers_and_their_parameters_are_known(optimizer, key, found, hint):
    assert told(optimizer=optimizer) == [(f"optimizer.{key}", found, hint)]


@pytest.mark.parametrize(
    ("scheduler", "key", "found", "hint"),
    [
        ({"type": "WarmupCosinLR", "params": {}}, "type", "'WarmupCosinLR'", "'WarmupCosineLR'"),
        ({"type": "warmuplr", "params": {}}, "type", "'warmuplr'", "'WarmupLR'"),
        ({"params": {}}, "type", "nothing", ""),
        ({"type": "WarmupLR"}, "params", "nothing", ""),
        ({"type": "StepLR", "params": {"gamma": 0.1}}, "params.step_size", "nothing", ""),
    ],
)
def test_schedulers_and_what_they_need_are_known(scheduler, key, found, hint):
    assert told(scheduler=scheduler) == [(f"scheduler.{key}", found, hint)]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": {"type": "adamW", "params": {"lr": 1e-3, "set_grad_none": True}}},
        {"optimizer": {"type": "AdamW", "params": {"torch_adam": True, "foreach": False}}},
        {"optimizer": {"type": "MuSGD", "params": {"anything": 1}}},
        {"optimizer": {"type": "SGD", "params": {"lr": 0, "momentum": 0.9}}},
        {"optimizer": {"type": "Adam"}},
        {"zero_optimization": {"stage": 3, "prefetch_bucket_size": 0, "offload_param": None}},
        {"scheduler": {"type": "StepLR", "params": {"step_size": 10}}},
        {"data_efficiency": {"data_sampling": {"curriculum_learning": {"own": 1}}}},
        {"pipeline": {"any": 1}},
        {"gradient_clipping": 0},
    ],
)
def test_settings_that_deepspeed_knows_pass(settings):
    assert complaints(**settings) == []


def test_what_deepspeed_has_removed_is_said_to_be():
    assert [m.found for m in complaints(amp={"enabled": True})] == [
        "'amp', which DeepSpeed 0.19 has removed"
    ]
    zero = {"stage": 3, "mics_shard_size": 2}
    assert [m.found for m in complaints(zero_optimization=zero)] == [
        "'mics_shard_size', which DeepSpeed 0.19 has removed"
    ]


def test_an_issue_in_the_settings_is_reported_with_the_line_of_their_file(tmp_path):
    path = write_run(tmp_path, gradiant_clipping=1.0)
    lines = (tmp_path / "zero.json").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, start=1) if "gradiant" in text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{tmp_path}/zero.json:{line}: deepspeed.gradiant_clipping: expected a known key, "
        "found 'gradiant_clipping'; did you mean 'gradient_clipping'?"
    )
    with pytest.raises(ConfigError, match=r"override 1: deepspeed\.zero_optimization\.stag:"):
        load_config(write_run(tmp_path), ["deepspeed.zero_optimization.stag=1"])


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for folder in ("configs", "docs", "megadga/examples")
        for path in (Path(__file__).parents[3] / folder).rglob("*.json")
        if "optimizer" in path.read_text()
    ),
    ids=lambda path: path.name,
)
def test_every_shipped_json_is_known_to_deepspeed(path):
    settings = json.loads(path.read_text())
    found = list(find_inconsistencies(settings, None))
    if path.name == "hf_trainer.json":  # transformers fills in what is "auto"
        found = [issue for issue in found if issue.found != "'auto'"]
    assert found == []
