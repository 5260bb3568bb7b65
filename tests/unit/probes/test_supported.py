"""Which of DeepSpeed's settings are refused. Engines that have them: tests/distributed."""

from typing import Any

import pytest

from megadga.probes.supported import untested_settings


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
    ],
)
def test_tested_settings_pass(settings: dict[str, Any]) -> None:
    assert list(untested_settings(settings)) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fp16": {"enabled": True, "auto_cast": True}}, "'fp16.auto_cast'"),
        (
            {"fp16": {"enabled": True, "fp16_master_weights_and_grads": True}},
            "'fp16.fp16_master_weights_and_grads'",
        ),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "'torch_autocast.dtype'"),
        ({"torch_autocast": {"enabled": True}}, "'torch_autocast.dtype'"),
        ({"compression_training": {"weight_quantization": {}}}, "'compression_training'"),
        ({"tensor_parallel": {"autotp_size": 2}}, "'tensor_parallel': each rank has a part"),
        ({"sequence_parallel_size": 2}, "'sequence_parallel_size': each rank has the loss"),
        ({"expert_parallel": {"enabled": True}}, "'expert_parallel': each rank has other experts"),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme"}}},
            "'zero_optimization.offload_param.device'",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "'zero_optimization.offload_optimizer.device'",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu", "super_offload": True}}},
            "'zero_optimization.offload_optimizer.super_offload'",
        ),
        *(
            ({"zero_optimization": {key: value}}, f"'zero_optimization.{key}'")
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
    (complaint,) = untested_settings(settings)

    assert named in complaint
    assert "expected" in complaint
    assert "found" in complaint
