"""Which engines alignments are exact on, and which are refused, by name and with the reason.

Every feature of DeepSpeed that moves parameters, gradients or the ranks' work is either tested
against float64 gradients or refused before training starts (docs/alignment.md has the table).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from megadga.errors import UnsupportedEngineError

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
        # what is written down
        "checkpoint",
        "comet",
        "comms_logger",
        "csv_monitor",
        "dump_state",
        "flops_profiler",
        "log_level",
        "memory_breakdown",
        "steps_per_print",
        "tensorboard",
        "wall_clock_breakdown",
        "wandb",
    }
)


# Its names in DeepSpeed's configuration.
_BFLOAT16 = ("bfloat16", "torch.bfloat16", "bf16")


# Top-level settings that are refused for a known reason.
_REASONS: Mapping[str, str] = {
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
        UnsupportedEngineError: Naming the first setting that is not supported, its value and what
            is expected instead.
    """
    check_data_parallel(engine)
    for problem in untested_settings(engine._config._param_dict):
        raise UnsupportedEngineError(problem)
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


def untested_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each DeepSpeed setting under which probes were not tested.

    Args:
        settings: DeepSpeed's configuration, as in its JSON file.
    """
    for key, value in settings.items():
        switched_off = value in (None, False) or (
            isinstance(value, Mapping) and value.get("enabled") is False
        )
        if key not in _KNOWN and not switched_off:
            reason = _REASONS.get(key, "alignments have not been tested under it")
            yield (
                f"DeepSpeed setting {key!r}: {reason}; "
                f"expected it absent or switched off, found {value!r}"
            )
    yield from _untested_autocast(settings.get("torch_autocast") or {})
    fp16 = settings.get("fp16") or {}
    for key in ("auto_cast", "fp16_master_weights_and_grads"):
        if fp16.get("enabled") and fp16.get(key):
            yield (
                f"DeepSpeed setting 'fp16.{key}': alignments have not been tested under it; "
                f"expected False, found {fp16[key]!r}"
            )
    yield from _untested_zero_settings(settings.get("zero_optimization", {}))


def _untested_autocast(autocast: Mapping[str, Any]) -> Iterator[str]:
    dtype = autocast.get("dtype")  # without one it is the device's, float16 on a GPU
    if autocast.get("enabled") and dtype not in _BFLOAT16:
        yield (
            "DeepSpeed setting 'torch_autocast.dtype': alignments have not been tested under it; "
            f"expected 'bfloat16', found {dtype!r}"
        )


def _untested_zero_settings(zero: Mapping[str, Any]) -> Iterator[str]:
    for key, (off, reason) in _OFF_OF_ZERO.items():
        if (value := zero.get(key, off[0])) not in off:
            yield (
                f"DeepSpeed setting 'zero_optimization.{key}': {reason}; "
                f"expected {off[0]!r}, found {value!r}"
            )
    for key in ("offload_param", "offload_optimizer"):
        block = zero.get(key) or {}
        if (device := block.get("device", "none")) not in _DEVICES:
            yield (
                f"DeepSpeed setting 'zero_optimization.{key}.device': alignments have not been "
                f"tested under it; expected {' or '.join(map(repr, _DEVICES))}, found {device!r}"
            )
    if (zero.get("offload_optimizer") or {}).get("super_offload"):
        yield (
            "DeepSpeed setting 'zero_optimization.offload_optimizer.super_offload': it needs an "
            "NVIDIA GPU, and has not been tested on one; expected False, found True"
        )
