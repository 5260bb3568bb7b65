"""Which engines alignments are exact on, and which are refused, by name and with the reason.

Every feature of DeepSpeed that moves parameters, gradients or the ranks' work is either tested
against float64 gradients or refused before training starts (docs/alignment.md has the table).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from megadga.config.deepspeed_keys import REPORTING_SETTINGS
from megadga.errors import UnsupportedEngineError
from megadga.section import ConfigIssue, dotted, format_value

# Top-level settings under which probes were tested, or which do not touch gradients.
_KNOWN = frozenset(
    {
        # what is trained, and how
        "bf16",
        "data_types",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer",
        "scheduler",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
        # how gradients travel; probes reduce theirs in float32 by themselves
        "communication_data_type",
        "disable_allgather",
        "gradient_predivide_factor",
        "prescale_gradients",
        "checkpoint",  # how states are written
    }
    | REPORTING_SETTINGS
)


# Its names in DeepSpeed's configuration.
_BFLOAT16 = ("bfloat16", "torch.bfloat16", "bf16")


# Top-level settings by which ranks divide more than batches and states among themselves.
_DIVIDING: Mapping[str, str] = {
    "tensor_parallel": "each rank has a part of every matrix and the whole of every norm",
    "expert_parallel": "each rank has other experts",
    "sequence_parallel_size": "each rank has the loss of a part of a sequence",
}


# Settings of the ZeRO block that are refused: the values that switch them off, and the reason.
_OFF_OF_ZERO: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "cpu_offload_param": ((None, False), "it is an old name of offload_param, which is supported"),
    "zenflow": (
        (None,),
        "parameters are updated apart from the step, some of them several steps later",
    ),
    "zero_quantized_weights": (
        (False,),
        "it needs DeepSpeed's CUDA quantizer, and has not been tested on a GPU",
    ),
    "zero_quantized_nontrainable_weights": (
        (False,),
        "it needs DeepSpeed's CUDA quantizer, and has not been tested on a GPU",
    ),
    "zero_quantized_gradients": (
        (False,),
        "it needs DeepSpeed's CUDA quantizer, and has not been tested on a GPU",
    ),
}


_DEVICES = ("none", "cpu")
"""Where parameters and the optimizer's states may be offloaded to."""


def check_supported(engine: Any) -> None:
    """Refuse an engine under which alignments are not known to be exact.

    Args:
        engine: A ``deepspeed.DeepSpeedEngine``.

    Raises:
        UnsupportedEngineError: Naming the first setting or module that is not supported, what is
            found and what is expected instead.
    """
    check_data_parallel(engine)
    issues = list(unsupported_settings(engine._config._param_dict))
    if engine.zero_optimization_partition_weights():
        issues += find_leaf_modules(engine.module)
    for issue in issues:
        raise UnsupportedEngineError(
            f"DeepSpeed setting {dotted(issue.path)!r}: expected {issue.expected}, "
            f"found {issue.found}"
        )
    if engine._is_compiled_autograd_enabled:
        raise UnsupportedEngineError(
            "engine.compile(): expected compiled_autograd_enabled=False, found True"
        )


def check_data_parallel(engine: Any) -> None:
    """Refuse an engine whose ranks divide more than batches and states among themselves.

    Args:
        engine: A ``deepspeed.DeepSpeedEngine``.

    Raises:
        UnsupportedEngineError: Naming the parallelism.
    """
    for problem in _parallelism(engine):
        raise UnsupportedEngineError(problem)


def _parallelism(engine: Any) -> Iterator[str]:
    from deepspeed.runtime.pipe.engine import PipelineEngine  # noqa: PLC0415  (slow to import)

    if isinstance(engine, PipelineEngine):
        yield (
            "pipeline parallelism: expected one forward and backward a rank, found a "
            "PipelineEngine, whose stages have no loss of their own to differentiate"
        )
    if engine.has_moe_layers:
        yield (
            "expert parallelism: expected every parameter on every rank (experts of "
            "transformers' models are measured), found MoE layers of DeepSpeed"
        )
    if engine.autotp_size() > 1:
        yield (
            "tensor parallelism: expected every parameter whole in the module, found matrices "
            f"divided over {engine.autotp_size()} ranks (AutoTP), while norms are on each of them"
        )
    if engine.sequence_parallel_size > 1:
        yield (
            "sequence parallelism: expected whole sequences on every rank, found sequences that "
            f"{engine.sequence_parallel_size} ranks share, each of which has the loss of a part"
        )
    if engine.mpu is not None:
        yield "model parallelism: expected data parallelism alone, found an mpu"


def unsupported_settings(
    settings: Mapping[str, Any], *, measured: bool = True
) -> Iterator[ConfigIssue]:
    """Yield each DeepSpeed setting that is refused.

    Args:
        settings: DeepSpeed's configuration, as in its JSON file; paths are from its root.
        measured: Whether alignments are measured; False: only parallelism is refused, by which
            ranks divide more than batches and states among themselves.
    """
    for key, value in settings.items():
        if key in _KNOWN or _is_off(key, value):
            continue
        if measured or key in _DIVIDING:
            reason = _DIVIDING.get(key, "alignments have not been tested under it")
            yield _issue(key, expected=f"none, or it switched off ({reason})", found=value)
    if measured:
        yield from _untested_precision(settings)
        yield from _untested_zero_settings(settings.get("zero_optimization") or {})


def _is_off(key: str, value: Any) -> bool:
    if key == "tensor_parallel" and isinstance(value, Mapping):
        return value.get("autotp_size") in (None, 0, 1)
    if key == "sequence_parallel_size":
        return value in (None, 1)
    return value in (None, False) or (isinstance(value, Mapping) and value.get("enabled") is False)


def _issue(*path: str, expected: str, found: Any) -> ConfigIssue:
    return ConfigIssue(path, expected, format_value(found))


def _untested_precision(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    autocast, fp16 = (settings.get(name) or {} for name in ("torch_autocast", "fp16"))
    dtype = autocast.get("dtype")  # without one it is the device's, float16 on a GPU
    if autocast.get("enabled") and dtype not in _BFLOAT16:
        yield _issue("torch_autocast", "dtype", expected=_untested("'bfloat16'"), found=dtype)
    for key in ("auto_cast", "fp16_master_weights_and_grads"):
        if fp16.get("enabled") and fp16.get(key):
            yield _issue("fp16", key, expected=_untested("false"), found=fp16[key])


def _untested(expected: str) -> str:
    return f"{expected} (alignments have not been tested under another)"


def _untested_zero_settings(zero: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    for key, (off, reason) in _OFF_OF_ZERO.items():
        if (value := zero.get(key, off[0])) not in off:
            expected = f"{format_value(off[0])} ({reason})"
            yield _issue("zero_optimization", key, expected=expected, found=value)
    for key in ("offload_param", "offload_optimizer"):
        block = zero.get(key) or {}
        if (device := block.get("device") or "none") not in _DEVICES:
            expected = _untested(" or ".join(map(repr, _DEVICES)))
            yield _issue("zero_optimization", key, "device", expected=expected, found=device)
    if (zero.get("offload_optimizer") or {}).get("super_offload"):
        expected = "false (it needs an NVIDIA GPU, and has not been tested on one)"
        path = ("zero_optimization", "offload_optimizer", "super_offload")
        yield _issue(*path, expected=expected, found=True)


def find_leaf_modules(module: Any) -> Iterator[ConfigIssue]:
    """Yield an issue if a model has leaf modules of ZeRO-3.

    DeepSpeed makes blocks of experts leaf modules: it reduces the gradients of all that is inside
    in one backward hook of the block, which would run in a probe's backward pass as well.

    Args:
        module: The module of an engine, or one that `mark_leaf_modules` was called with.
    """
    from deepspeed.utils import z3_leaf_module  # noqa: PLC0415  (slow to import)

    found = [(name, each) for name, each in module.named_modules() if z3_leaf_module(each)]
    if not found:
        return
    name, first = found[0]
    kind, more = type(first).__name__, f" and {len(found) - 1} more" if len(found) > 1 else ""
    yield ConfigIssue(
        ("zero_optimization", "stage"),
        "2 or lower, or a mixture that measures nothing (DeepSpeed reduces the gradients of a "
        "leaf module in a hook of the whole module, which a probe would run as well)",
        f"3 with the leaf module {name!r} ({kind}){more}",
    )


def mark_leaf_modules(module: Any, zero: Mapping[str, Any]) -> None:
    """Mark the modules that an engine of ZeRO-3 would make leaf modules by their classes or names.

    Args:
        module: A model; its weights are not looked at, and may be on torch's device meta.
        zero: DeepSpeed's block ``zero_optimization``.
    """
    from deepspeed.runtime.zero.leaf_module_config import (  # noqa: PLC0415  (slow to import)
        DeepSpeedZeroLeafModuleConfig,
    )
    from deepspeed.utils.z3_leaf_module import apply_zero_leaf_module_config  # noqa: PLC0415

    config = DeepSpeedZeroLeafModuleConfig(**(zero.get("leaf_module") or {}))
    apply_zero_leaf_module_config(module, config)
