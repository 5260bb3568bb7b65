"""Real DeepSpeed engines for workers, and what their parameters hold."""

import hashlib
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

OFFLOADED: dict[str, Any] = {"offload_optimizer": {"device": "cpu"}}
RELEASED: dict[str, Any] = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}


def init_ranks() -> int:
    """Join the ranks that a launcher started; return how many there are. Collective."""
    deepspeed.init_distributed()
    return torch.distributed.get_world_size()


def zero_settings(kind: str) -> dict[str, Any]:
    """ZeRO's block: a stage (``"2"``), perhaps with more.

    With the optimizer kept on the CPU (``"2-offload"``); with parameters that ZeRO-3 releases as
    soon as it can (``"3-released"``), which it never does with those of small models by default.
    Released, and with parameters kept on the CPU as well (``"3-parameters"``), or a second copy of
    them divided over pairs of ranks, as ZeRO++ does within a node (``"3-hpz"``).
    """
    stage, _, more = kind.partition("-")
    block: dict[str, Any] = {"stage": int(stage)}
    return (
        block
        | {
            "": {},
            "offload": OFFLOADED,
            "released": RELEASED,
            "parameters": RELEASED | OFFLOADED | {"offload_param": {"device": "cpu"}},
            "hpz": RELEASED | {"zero_hpz_partition_size": 2},
        }[more]
    )


def settings(kind: str, precision: str, **more: Any) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        "zero_optimization": zero_settings(kind),
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled for a minute
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "initial_scale_power": 12},
        **more,
    }


def build_engine(build: Callable[[], nn.Module], config: dict[str, Any], *, seed: int = 0) -> Any:
    """Initialise an engine around a model whose weights are equal on every rank."""
    torch.manual_seed(seed)
    module = build()
    parameters = [p for p in module.parameters() if p.requires_grad]
    initialize: Any = deepspeed.initialize  # its annotations refuse what its docstring asks for
    engine, *_ = initialize(model=module, model_parameters=parameters, config=config)
    return engine


def full_parameters(engine: Any) -> dict[str, Tensor]:
    """Return every parameter, whole, on every rank. Collective under ZeRO-3."""
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters):
        return {name: p.detach().clone() for name, p in engine.module.named_parameters()}


def fingerprint(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()
