"""Which of DeepSpeed's settings are refused. Engines that have them: tests/distributed."""

from typing import Any

import pytest
from torch import nn

from megadga.probes.supported import (
    find_leaf_modules,
    mark_leaf_modules,
    unsupported_settings,
)
from megadga.section import dotted, format_value


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bf16": {"enabled": True}, "gradient_clipping": 1.0, "zero_optimization": {"stage": 3}},
        {"fp16": {"enabled": False, "auto_cast": True}, "torch_autocast": None},
        {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}},
        {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        {"torch_autocast": {"enabled": True, "dtype": "torch.bfloat16"}},
        {"torch_autocast": {"enabled": True, "dtype": "bf16"}},
        {"torch_autocast": {"enabled": False, "dtype": "float16"}},
        {"torch_autocast": {"dtype": "float16"}},  # off unless it says otherwise
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
        {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}},
        {"tensor_parallel": {"autotp_size": 1}, "sequence_parallel_size": 1},
    ],
)
def test_tested_settings_pass(settings: dict[str, Any]) -> None:
    assert list(unsupported_settings(settings)) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fp16": {"enabled": True, "auto_cast": True}}, "fp16.auto_cast"),
        (
            {"fp16": {"enabled": True, "fp16_master_weights_and_grads": True}},
            "fp16.fp16_master_weights_and_grads",
        ),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "torch_autocast.dtype"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.dtype"),
        ({"compression_training": {"weight_quantization": {}}}, "compression_training"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size"),
        ({"expert_parallel": {"enabled": True}}, "expert_parallel"),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme"}}},
            "zero_optimization.offload_param.device",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "zero_optimization.offload_optimizer.device",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu", "super_offload": True}}},
            "zero_optimization.offload_optimizer.super_offload",
        ),
        *(
            ({"zero_optimization": {key: value}}, f"zero_optimization.{key}")
            for key, value in {
                "cpu_offload_param": True,
                "zenflow": {"topk_ratio": 0.1},
                "zero_quantized_gradients": True,
                "zero_quantized_nontrainable_weights": True,
                "zero_quantized_weights": True,
            }.items()
        ),
    ],
)
def test_untested_settings_are_named(settings: dict[str, Any], named: str) -> None:
    (issue,) = unsupported_settings(settings)

    assert dotted(issue.path) == named
    value: Any = settings
    for key in issue.path:
        value = value.get(key)
    assert issue.found == format_value(value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tensor_parallel": {"autotp_size": 2}}, "each rank has a part of every matrix"),
        ({"sequence_parallel_size": 2}, "each rank has the loss of a part of a sequence"),
        ({"expert_parallel": {"enabled": True}}, "each rank has other experts"),
    ],
)
def test_parallelism_is_refused_also_where_nothing_is_measured(
    settings: dict[str, Any], reason: str
) -> None:
    untested = {"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}, "aio": {}}
    (issue,) = unsupported_settings({**settings, **untested}, measured=False)

    assert [*settings] == [*issue.path]
    assert reason in issue.expected


def test_blocks_that_zero3_would_make_leaf_modules_are_named() -> None:
    module = nn.ModuleDict(
        {"head": nn.Linear(2, 2), "experts": nn.ModuleList([nn.Bilinear(2, 2, 2)])}
    )

    mark_leaf_modules(module, {"leaf_module": {"classes": ["Bilinear"]}})
    (issue,) = find_leaf_modules(module)

    assert dotted(issue.path) == "zero_optimization.stage"
    assert issue.expected.startswith("2 or lower, or a mixture that measures nothing (DeepSpeed")
    assert issue.found == "3 with the leaf module 'experts.0' (Bilinear)"


def test_a_model_without_such_blocks_has_none() -> None:
    module = nn.Sequential(nn.Linear(2, 2))

    mark_leaf_modules(module, {})

    assert list(find_leaf_modules(module)) == []
