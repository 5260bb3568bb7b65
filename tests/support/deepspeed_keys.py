"""What DeepSpeed and torch know themselves: keys, optimizers, schedulers and their parameters."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import torch
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.inference.config import WeightQuantConfig
from deepspeed.monitor.config import DeepSpeedMonitorConfig
from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lamb import FusedLamb
from deepspeed.ops.lion import DeepSpeedCPULion, FusedLion
from deepspeed.runtime import lr_schedules
from deepspeed.runtime.config import (
    ADAM_W_MODE,
    TORCH_ADAM_PARAM,
    DeepSpeedConfig,
    HybridEngineConfig,
)
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
from pydantic import BaseModel

_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    ("zero_optimization",): DeepSpeedZeroConfig,
    ("fp16",): DeepSpeedFP16Config,
    ("bf16",): DeepSpeedBF16Config,
    ("bfloat16",): DeepSpeedBF16Config,
    ("comms_logger",): CommsLoggerConfig,
    ("compile",): CompileConfig,
    ("hybrid_engine",): HybridEngineConfig,
    ("tensor_parallel",): TPTrainingConfig,
    ("timers", "throughput"): DeepSpeedThroughputTimerConfig,
    ("weight_quantization",): WeightQuantConfig,
    **{
        (name,): field.annotation
        for name, field in DeepSpeedMonitorConfig.model_fields.items()
        if isinstance(field.annotation, type)
    },
}
"""Blocks that DeepSpeed validates with a model of its own."""
_READ = (
    "activation_checkpointing",
    "aio",
    "autotuning",
    "checkpoint",
    "data_efficiency",
    "data_types",
    "expert_parallel",
    "flops_profiler",
    "optimizer",
    "scheduler",
    "timers",
    "torch_autocast",
)
"""Blocks that it reads key by key."""
_INNER = {
    "autotuning": ("model_info",),
    "checkpoint": ("parallel_write", "writer"),
    "data_efficiency": ("data_sampling", "data_routing"),
}

REQUIRED = object()
"""Stands for the default of a parameter that has none."""


class _Reads(dict[str, Any]):
    """Settings that remember which keys were asked for."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return _Keys(self)

    def __copy__(self) -> "_Reads":
        return self


class _Keys:
    def __init__(self, reads: _Reads) -> None:
        self._reads = reads

    def __contains__(self, key: object) -> bool:
        return key in self._reads

    def __iter__(self) -> Iterator[str]:
        return iter(self._reads)


def deepspeed_keys(removed: set[str]) -> dict[str, Any]:
    """Return the keys that DeepSpeed asks for, nested; None: below it may be anything.

    Args:
        removed: Keys that it asks for only to refuse them.
    """
    settings = _Reads(train_batch_size=1)
    for name in _READ:
        block = _Reads({inner: _Reads() for inner in _INNER.get(name, ())})
        if name == "expert_parallel":  # an empty one is passed over
            block["enabled"] = False
        settings[name] = block
    DeepSpeedConfig(settings)  # pyright: ignore[reportUnknownMemberType]
    keys: dict[str, Any] = dict.fromkeys(sorted(settings.asked - removed))
    for name in _READ:
        block = settings[name]
        keys[name] = dict.fromkeys(sorted(block.asked))
        for inner in _INNER.get(name, ()):
            keys[name][inner] = dict.fromkeys(sorted(block[inner].asked))
    for path, model in _MODELS.items():
        *outer, last = path
        place = keys
        for name in outer:
            place = place[name]
        place[last] = _fields(model)
    keys["optimizer"]["params"] = keys["scheduler"]["params"] = None
    return keys


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = [part for part in _parts(field.annotation) if issubclass(part, BaseModel)]
        below = _fields(inner[0]) if inner else None
        keys |= dict.fromkeys({name, field.alias or name}, below)
    return dict(sorted(keys.items()))


def _parts(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def parameters(made: Any, *positional: str) -> dict[str, Any]:
    """Return the defaults of the parameters that a class takes by name; ``REQUIRED``: none."""
    return {
        name: REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if name not in positional
    }


def deepspeed_optimizers() -> dict[str, dict[str, set[str]]]:
    """Return what ``params`` of DeepSpeed's own optimizers may hold, by name and implementation.

    Its engine takes some parameters for itself, and fills in others.
    """
    own = {ADAM_W_MODE, TORCH_ADAM_PARAM, "fp32_optimizer_states"}
    halves = {*DeepSpeedEngine._MUON_HALF_KEYS, *DeepSpeedEngine._ADAM_HALF_KEYS}
    adam = {
        "accelerator": _named(FusedAdam) | own,
        "cpu": _named(DeepSpeedCPUAdam) - {"adamw_mode"} | own,
    }
    return {
        "adagrad": {
            "accelerator": _named(torch.optim.Adagrad),
            "cpu": _named(DeepSpeedCPUAdagrad),
        },
        "adam": {**adam, "torch": _named(torch.optim.Adam) | own},
        "adamw": {**adam, "torch": _named(torch.optim.AdamW) | own},
        "lamb": {"any": _named(FusedLamb) - {"max_grad_norm"}},  # which the engine refuses
        "lion": {"accelerator": _named(FusedLion), "cpu": _named(DeepSpeedCPULion)},
        "muon": {"any": halves | own | {"foreach", "muon_lr", "adam_lr"}},
    }


def torch_optimizers() -> dict[str, dict[str, Any]]:
    """Return the defaults of ``params``, by the names of torch's optimizers."""
    return {
        name: parameters(kind, "params")
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
    }


def default_rates() -> dict[str, Any]:
    """Return the learning rates of optimizers that are not told one, by name."""
    own = {
        "Adagrad": (torch.optim.Adagrad, DeepSpeedCPUAdagrad),
        "Adam": (torch.optim.Adam, FusedAdam, DeepSpeedCPUAdam),
        "AdamW": (torch.optim.AdamW, FusedAdam, DeepSpeedCPUAdam),
        "Lamb": (FusedLamb,),
        "Lion": (FusedLion, DeepSpeedCPULion),
    }
    rates = {name: {parameters(kind)["lr"] for kind in kinds} for name, kinds in own.items()}
    assert all(len(found) == 1 for found in rates.values()), rates
    theirs = {name: params["lr"] for name, params in torch_optimizers().items()}
    return theirs | {name: found.pop() for name, found in rates.items()}


def schedulers() -> dict[str, dict[str, Any]]:
    """Return the defaults of ``params``, by the schedulers' names."""
    kinds = torch.optim.lr_scheduler
    theirs = {
        name: kind
        for name, kind in vars(kinds).items()
        if isinstance(kind, type)
        and issubclass(kind, kinds.LRScheduler)
        and not name.startswith("_")
        and kind is not kinds.LRScheduler
    }
    own = {name: getattr(lr_schedules, name) for name in lr_schedules.VALID_LR_SCHEDULES}
    return {name: parameters(kind, "optimizer") for name, kind in {**theirs, **own}.items()}


def _named(kind: Any) -> set[str]:
    return set(parameters(kind, "params", "model_params"))
