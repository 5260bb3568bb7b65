"""Keys, optimizers and schedulers that DeepSpeed 0.19 accepts, and checks for unknown ones."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self, Union, cast

from pydantic import model_validator

from megadga.config.validation import SIMILARITY_CUTOFF, dotted, validation_error
from megadga.section import (
    ConfigIssue,
    Fraction,
    KeyPath,
    NonNegativeInt,
    PositiveInt,
    Section,
    format_value,
)

REPORTING_SETTINGS = frozenset(
    {
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
"""Top-level settings that say what is written down, and do not affect the training result."""

STABLE_DECAY = "WarmupStableDecayLR"
"""The ``scheduler.type`` in DeepSpeed's JSON of the schedule below, which DeepSpeed lacks."""


class StableDecaySection(Section):
    """Linear warm-up to the optimizer's learning rate, a plateau, then linear decay."""

    warmup_num_steps: NonNegativeInt
    """Optimizer steps of warm-up, at least 0."""
    decay_num_steps: NonNegativeInt
    """Optimizer steps of decay, the last ones, at least 0."""
    total_num_steps: PositiveInt
    """Optimizer steps of the whole schedule; "auto" in the file: training.steps."""
    warmup_min_ratio: Fraction = 0.0
    """Learning rate where warm-up starts, as a share of the optimizer's, in [0, 1]."""
    min_ratio: Fraction = 0.0
    """Learning rate where decay ends, as a share of the optimizer's, in [0, 1]."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_num_steps + self.decay_num_steps > self.total_num_steps:
            expected = f"at most {self.total_num_steps - self.warmup_num_steps} (total - warm-up)"
            found = str(self.decay_num_steps)
            raise validation_error([ConfigIssue(("decay_num_steps",), expected, found)])
        return self


Keys = Mapping[str, Union["Keys", None]]
"""Keys of a mapping, each with its nested keys; None: any value."""


@dataclass(frozen=True)
class Parameters:
    """Keyword parameters of a class.

    Attributes:
        names: All names.
        required: Names without a default.
    """

    names: frozenset[str]
    required: frozenset[str]


def _names(text: str) -> Keys:
    return dict.fromkeys(text.split())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _parameters(text: str) -> Parameters:
    """Read names, of which those that end in ``!`` are required."""
    words = text.split()
    return Parameters(
        frozenset(word.removesuffix("!") for word in words),
        frozenset(word.removesuffix("!") for word in words if word.endswith("!")),
    )


REMOVED = _set(
    "amp compression_training curriculum_learning eigenvalue elasticity graph_harvesting nebula "
    "progressive_layer_drop quantize_training sparse_attention sparse_gradients"
)
"""Top-level keys of older versions, which DeepSpeed refuses."""


REMOVED_OF_ZERO = _set("mics_hierarchical_params_gather mics_shard_size zeropp_loco_param")
"""Likewise of ``zero_optimization``."""


_BF16 = _names(
    "bf16_master_weights_and_grads bf16_optimizer_states check_grad_overflow enabled "
    "immediate_grad_update"
)


_FILES = _names("enabled job_name output_path")


_TP = _names("mpu tp_grain_size tp_group tp_size")


KEYS: Keys = {
    **_names(
        "communication_data_type dataloader_drop_last datastates_ckpt disable_allgather "
        "disable_python_gc dump_state gradient_accumulation_steps gradient_allreduce_op "
        "gradient_clipping gradient_predivide_factor log_level managed_gradient_accumulation "
        "memory_breakdown pipeline prescale_gradients seq_parallel_communication_data_type "
        "steps_per_print train_batch_size train_micro_batch_size_per_gpu "
        "use_data_before_expert_parallelism vocabulary_size wall_clock_breakdown "
        "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer"
    ),
    "activation_checkpointing": _names(
        "contiguous_memory_optimization cpu_checkpointing number_checkpoints "
        "partition_activations profile synchronize_checkpoint_boundary"
    ),
    "aio": _names(
        "block_size intra_op_parallelism overlap_events queue_depth single_submit use_gds"
    ),
    "autotuning": {
        **_names(
            "arg_mappings enabled end_profile_step exps_dir fast max_train_batch_size "
            "max_train_micro_batch_size_per_gpu metric metric_path min_train_batch_size "
            "min_train_micro_batch_size_per_gpu model_info_path mp_size "
            "num_tuning_micro_batch_sizes overwrite results_dir start_profile_step "
            "tuner_early_stopping tuner_num_trials tuner_type"
        ),
        "model_info": _names("hidden_size num_layers num_params profile"),
    },
    "checkpoint": {
        **_names("checkpoint_serialization load_universal tag_validation use_node_local_storage"),
        "parallel_write": _names("pipeline_stage"),
        "writer": _names(
            "data_parallel decoupled io_buffer_double io_buffer_size io_multiplier "
            "show_statistics type"
        ),
    },
    "comet": _names(
        "api_key enabled experiment_key experiment_name mode online project "
        "samples_log_interval workspace"
    ),
    "comms_logger": _names("debug enabled prof_all prof_ops verbose"),
    "compile": _names(
        "autoep_non_moe debug_log deepcompile double_buffer free_activation "
        "free_activation_threshold keep_all_input_tensors keep_int_input_tensors "
        "offload_activation offload_activation_pin_memory offload_opt_states offload_parameters "
        "passes symmetric_memory sync_after_allgather sync_after_reduce sync_before_allgather "
        "sync_before_reduce"
    ),
    "data_efficiency": {
        **_names("enabled seed"),
        "data_routing": _names("enabled random_ltd"),
        "data_sampling": _names(
            "curriculum_learning dynamic_batching enabled num_epochs num_workers pin_memory"
        ),
    },
    "data_types": _names("buffer_dtype grad_accum_dtype keep_in_fp32_modules param_dtype"),
    "expert_parallel": _names(
        "async_split_plan autoep_size combine_impl comm_backend comm_max_tokens_per_rank "
        "comm_num_sm comm_qp_margin disable_triton_grouped_mm enabled expert_activation "
        "expert_pattern expert_tensor_parallel_size expert_w1 expert_w2 expert_w3 gate_up_impl "
        "has_shared_experts load_balance_coeff moe_layer_pattern num_expert_groups "
        "num_experts_attr num_limited_groups preset_model route_norm route_scale "
        "routed_scaling_factor router_pattern row_weighting_impl score_apply score_func "
        "shared_experts_gate_pattern shared_experts_pattern top_k top_k_attr use_grouped_mm "
        "validate_folding_routing"
    ),
    "flops_profiler": _names(
        "detailed enabled module_depth output_file profile_step recompute_fwd_factor top_modules"
    ),
    "bf16": _BF16,
    "bfloat16": _BF16,
    "csv_monitor": _FILES,
    "tensorboard": _FILES,
    "fp16": _names(
        "auto_cast consecutive_hysteresis enabled fp16_master_weights_and_grads hysteresis "
        "initial_scale_power loss_scale loss_scale_window min_loss_scale"
    ),
    "hybrid_engine": _names(
        "enable_cuda_graph enabled inference_tp_size max_out_tokens pin_parameters "
        "release_inference_cache tp_gather_partition_size"
    ),
    "optimizer": _names("legacy_fusion params type"),
    "scheduler": _names("params type"),
    "tensor_parallel": {
        **_names(
            "autotp_size dtype injection_policy_tuple keep_module_on_host kernel_inject "
            "partition_config preset_model replace_with_kernel_inject tp_overlap_comm "
            "vocab_parallel_ce_backend vocab_parallel_lm_head"
        ),
        "tensor_parallel": _TP,
        "tp": _TP,
    },
    "timers": {
        "throughput": _names("enabled synchronized"),
    },
    "torch_autocast": _names("dtype enabled lower_precision_safe_modules"),
    "wandb": _names("enabled group project team"),
    "weight_quantization": _names(
        "enabled num_bits post_init_quant q_groups q_type quantized_initialization"
    ),
    "zero_optimization": {
        **_names(
            "allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm "
            "contiguous_gradients cpu_offload cpu_offload_param cpu_offload_use_pin_memory "
            "elastic_checkpoint enable_sanity_checks gather_16bit_weights_on_model_save "
            "ignore_unused_parameters legacy_stage1 load_from_fp32_weights "
            "log_trace_cache_warnings max_live_parameters max_reuse_distance "
            "memory_efficient_linear model_persistence_threshold module_granularity_threshold "
            "overlap_comm override_module_apply param_persistence_threshold parameter_alignment "
            "pipeline_loading_checkpoint prefetch_bucket_size reduce_bucket_size reduce_scatter "
            "round_robin_gradients save_muon_momentum_buffer_in_memory stage "
            "stage3_allgather_sequential stage3_gather_16bit_weights_on_model_save "
            "stage3_gather_fp16_weights_on_model_save stage3_max_live_parameters "
            "stage3_max_reuse_distance stage3_model_persistence_threshold "
            "stage3_module_granularity_threshold stage3_param_persistence_threshold "
            "stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size "
            "use_all_reduce_for_fetch_params use_multi_rank_bucket_allreduce "
            "zero_hpz_partition_size zero_quantized_gradients "
            "zero_quantized_nontrainable_weights zero_quantized_weights"
        ),
        "leaf_module": _names("classes name_suffixes names"),
        "offload_optimizer": _names(
            "buffer_count cpuadam_cores_perc device fast_init nvme_path pin_memory "
            "pipeline_read pipeline_write ratio super_offload"
        ),
        "offload_param": _names("buffer_count buffer_size device max_in_cpu nvme_path pin_memory"),
        "zenflow": _names(
            "auto_ratio full_warm_up_rounds offload overlap_step pt_reserved_cores_perc "
            "select_interval select_strategy steps_per_epoch topk_ratio update_interval"
        ),
    },
}
"""Valid keys of DeepSpeed's settings; ``params`` depend on the ``type`` beside them."""


OPTIMIZERS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "Adagrad": {
        "accelerator": _set(
            "differentiable eps foreach fused initial_accumulator_value lr lr_decay maximize "
            "weight_decay"
        ),
        "cpu": _set("amsgrad eps fp32_optimizer_states lr weight_decay"),
    },
    "Adam": {
        "accelerator": _set(
            "adam_w_mode amsgrad betas bias_correction eps fp32_optimizer_states lr "
            "set_grad_none torch_adam weight_decay"
        ),
        "cpu": _set(
            "adam_w_mode amsgrad betas bias_correction eps fp32_optimizer_states lr torch_adam "
            "weight_decay"
        ),
        "torch": _set(
            "adam_w_mode amsgrad betas capturable decoupled_weight_decay differentiable eps "
            "foreach fp32_optimizer_states fused lr maximize torch_adam weight_decay"
        ),
    },
    "AdamW": {
        "accelerator": _set(
            "adam_w_mode amsgrad betas bias_correction eps fp32_optimizer_states lr "
            "set_grad_none torch_adam weight_decay"
        ),
        "cpu": _set(
            "adam_w_mode amsgrad betas bias_correction eps fp32_optimizer_states lr torch_adam "
            "weight_decay"
        ),
        "torch": _set(
            "adam_w_mode amsgrad betas capturable differentiable eps foreach "
            "fp32_optimizer_states fused lr maximize torch_adam weight_decay"
        ),
    },
    "Lamb": {
        "any": _set(
            "amsgrad betas bias_correction eps eps_inside_sqrt lr max_coeff min_coeff weight_decay"
        ),
    },
    "Lion": {
        "accelerator": _set("betas lr set_grad_none weight_decay"),
        "cpu": _set("betas fp32_optimizer_states lr weight_decay"),
    },
    "Muon": {
        "any": _set(
            "adam_lr adam_w_mode betas eps foreach fp32_optimizer_states lr momentum muon_lr "
            "ns_method torch_adam weight_decay"
        ),
    },
}
"""Parameters of DeepSpeed's own optimizers by implementation: ``torch`` where ``torch_adam`` says
so, ``cpu`` where ZeRO offloads to it, ``accelerator`` elsewhere, or ``any``. DeepSpeed ignores the
case of these names."""


TORCH_OPTIMIZERS: Mapping[str, frozenset[str]] = {
    "ASGD": _set("alpha capturable differentiable foreach lambd lr maximize t0 weight_decay"),
    "Adadelta": _set("capturable differentiable eps foreach lr maximize rho weight_decay"),
    "Adafactor": _set("beta2_decay d eps foreach lr maximize weight_decay"),
    "Adamax": _set("betas capturable differentiable eps foreach lr maximize weight_decay"),
    "LBFGS": _set(
        "history_size line_search_fn lr max_eval max_iter tolerance_change tolerance_grad"
    ),
    "NAdam": _set(
        "betas capturable decoupled_weight_decay differentiable eps foreach lr maximize "
        "momentum_decay weight_decay"
    ),
    "RAdam": _set(
        "betas capturable decoupled_weight_decay differentiable eps foreach lr maximize "
        "weight_decay"
    ),
    "RMSprop": _set(
        "alpha capturable centered differentiable eps foreach lr maximize momentum weight_decay"
    ),
    "Rprop": _set("capturable differentiable etas foreach lr maximize step_sizes"),
    "SGD": _set(
        "dampening differentiable foreach fused lr maximize momentum nesterov weight_decay"
    ),
    "SparseAdam": _set("betas eps lr maximize"),
}
"""Parameters of torch's, which DeepSpeed finds by their exact names."""


FOREIGN_OPTIMIZERS = ("MuAdam", "MuAdamW", "MuSGD")
"""Optimizers of the package mup: their parameters are not known here."""


SCHEDULERS: Mapping[str, Parameters] = {
    "ChainedScheduler": _parameters("schedulers!"),
    "ConstantLR": _parameters("factor last_epoch total_iters"),
    "CosineAnnealingLR": _parameters("T_max! eta_min last_epoch"),
    "CosineAnnealingWarmRestarts": _parameters("T_0! T_mult eta_min last_epoch"),
    "CyclicLR": _parameters(
        "base_lr! base_momentum cycle_momentum gamma last_epoch max_lr! max_momentum mode "
        "scale_fn scale_mode step_size_down step_size_up"
    ),
    "ExponentialLR": _parameters("gamma! last_epoch"),
    "LRRangeTest": _parameters(
        "last_batch_iteration lr_range_test_min_lr lr_range_test_staircase "
        "lr_range_test_step_rate lr_range_test_step_size"
    ),
    "LambdaLR": _parameters("last_epoch lr_lambda!"),
    "LinearLR": _parameters("end_factor last_epoch start_factor total_iters"),
    "MultiStepLR": _parameters("gamma last_epoch milestones!"),
    "MultiplicativeLR": _parameters("last_epoch lr_lambda!"),
    "OneCycle": _parameters(
        "cycle_first_stair_count cycle_first_step_size cycle_max_lr! cycle_max_mom "
        "cycle_min_lr! cycle_min_mom cycle_momentum cycle_second_stair_count "
        "cycle_second_step_size decay_lr_rate decay_mom_rate decay_step_size "
        "last_batch_iteration"
    ),
    "OneCycleLR": _parameters(
        "anneal_strategy base_momentum cycle_momentum div_factor epochs final_div_factor "
        "last_epoch max_lr! max_momentum pct_start steps_per_epoch three_phase total_steps"
    ),
    "PolynomialLR": _parameters("last_epoch power total_iters"),
    "ReduceLROnPlateau": _parameters(
        "cooldown eps factor min_lr mode patience threshold threshold_mode"
    ),
    "SequentialLR": _parameters("last_epoch milestones! schedulers!"),
    "StepLR": _parameters("gamma last_epoch step_size!"),
    "WarmupCosineLR": _parameters(
        "cos_min_ratio last_batch_iteration total_num_steps! warmup_min_ratio warmup_num_steps "
        "warmup_type"
    ),
    "WarmupDecayLR": _parameters(
        "last_batch_iteration total_num_steps! warmup_max_lr warmup_min_lr warmup_num_steps "
        "warmup_type"
    ),
    "WarmupLR": _parameters(
        "last_batch_iteration warmup_max_lr warmup_min_lr warmup_num_steps warmup_type"
    ),
}
"""Parameters of DeepSpeed's schedulers, and of torch's where DeepSpeed has none of the name."""


DEFAULT_RATES: Mapping[str, float] = {
    "Adadelta": 1.0,
    "Adafactor": 0.01,
    "Adagrad": 0.01,
    "Adamax": 0.002,
    "ASGD": 0.01,
    "LBFGS": 1.0,
    "NAdam": 0.002,
    "RMSprop": 0.01,
    "Rprop": 0.01,
}
"""Default learning rates of optimizers, where it is not ``DEFAULT_RATE``."""


DEFAULT_RATE = 1e-3


DEFAULT_CLIPPING = 1.0
"""DeepSpeed's default for gradient clipping; 0: no clipping."""


_ROOT: KeyPath = ("deepspeed",)


_CPU = ("cpu", "nvme")


_MAX_NAMED = 25
"""Maximum names listed in a message."""


_ELSEWHERE: Mapping[str, str] = {
    "max_grad_norm": "gradient_clipping",
    "clip_grad": "gradient_clipping",
    "grad_clip": "gradient_clipping",
    "learning_rate": "optimizer.params.lr",
    "lr": "optimizer.params.lr",
    "weight_decay": "optimizer.params.weight_decay",
    "betas": "optimizer.params.betas",
}
"""Correct keys for names used by other programs, or at another location."""


def find_unknown_names(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield every key, optimizer, scheduler and parameter that DeepSpeed does not know.

    Args:
        settings: DeepSpeed's settings, as in its JSON.
    """
    yield from _keys(settings, KEYS, _ROOT)
    yield from _optimizer(settings)
    yield from _scheduler(settings)


def optimizer_name(settings: Mapping[str, Any]) -> str | None:
    """Return the optimizer's name in DeepSpeed's spelling, None if it is unknown."""
    found = settings.get("optimizer", {}).get("type")
    if not isinstance(found, str):
        return None
    of_deepspeed = (*OPTIMIZERS, *FOREIGN_OPTIMIZERS)
    named = next((name for name in of_deepspeed if name.lower() == found.lower()), None)
    return named or (found if found in TORCH_OPTIMIZERS else None)


def _keys(settings: Mapping[str, Any], known: Keys, path: KeyPath) -> Iterator[ConfigIssue]:
    for name, value in settings.items():
        here = (*path, name)
        if name not in known:
            removed = {_ROOT: REMOVED, (*_ROOT, "zero_optimization"): REMOVED_OF_ZERO}
            if name in removed.get(path, ()):
                found = f"{name!r}, which DeepSpeed 0.19 has removed"
                yield ConfigIssue(here, "a key of DeepSpeed's", found)
            else:
                yield _unknown(here, known, "key", _elsewhere(name))
        elif (below := known[name]) is not None:
            if isinstance(value, Mapping):
                yield from _keys(cast("Mapping[str, Any]", value), below, here)
            elif value is not None or path == _ROOT:
                yield ConfigIssue(
                    here, "a mapping", "nothing" if value is None else format_value(value)
                )


def _optimizer(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    section = settings.get("optimizer")
    if not isinstance(section, Mapping):
        return
    name = optimizer_name(settings)
    if name is None:
        names = (*OPTIMIZERS, *TORCH_OPTIMIZERS, *FOREIGN_OPTIMIZERS)
        yield _unknown_type("optimizer", cast("Mapping[str, Any]", section), names)
    elif name not in FOREIGN_OPTIMIZERS:
        params = cast("Mapping[str, Any]", section).get("params", {})
        if name in OPTIMIZERS:
            known = OPTIMIZERS[name][_implementation(name, settings, params)]
        else:
            known = TORCH_OPTIMIZERS[name]
        yield from _params("optimizer", params, known, ())


def _implementation(name: str, settings: Mapping[str, Any], params: Any) -> str:
    """Return which implementation of an optimizer DeepSpeed uses."""
    kinds = OPTIMIZERS[name]
    if "any" in kinds:
        return "any"
    if "torch" in kinds and isinstance(params, Mapping) and params.get("torch_adam"):
        return "torch"
    zero: Any = settings.get("zero_optimization", {})
    offload: Any = zero.get("offload_optimizer")
    device: Any = (
        cast("Mapping[str, Any]", offload).get("device") if isinstance(offload, Mapping) else None
    )
    return "cpu" if zero.get("cpu_offload") or device in _CPU else "accelerator"


def _scheduler(settings: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    section = settings.get("scheduler")
    if not isinstance(section, Mapping):
        return
    scheduler = cast("Mapping[str, Any]", section)
    name = scheduler.get("type")
    if name == STABLE_DECAY:
        return  # not DeepSpeed's: validated by StableDecaySection
    if not isinstance(name, str) or name not in SCHEDULERS:
        yield _unknown_type("scheduler", scheduler, (*SCHEDULERS, STABLE_DECAY))
        return
    known = SCHEDULERS[name]
    # The number of steps is checked where the run's is known.
    required = known.required - {"total_num_steps"}
    yield from _params("scheduler", scheduler.get("params"), known.names, required)


def _params(
    section: str, params: Any, known: Collection[str], required: Collection[str]
) -> Iterator[ConfigIssue]:
    path = (*_ROOT, section, "params")
    if not isinstance(params, Mapping):
        yield ConfigIssue(path, "a mapping", "nothing" if params is None else format_value(params))
        return
    for name in cast("Mapping[str, Any]", params):
        if name not in known:
            elsewhere = [_ELSEWHERE[name]] if name == "max_grad_norm" else []
            yield _unknown((*path, name), known, "parameter", elsewhere)
    for name in sorted(set(required) - set(cast("Mapping[str, Any]", params))):
        yield ConfigIssue((*path, name), "a value", "nothing")


def _unknown_type(section: str, found: Mapping[str, Any], names: Iterable[str]) -> ConfigIssue:
    path = (*_ROOT, section, "type")
    name = found.get("type")
    if not isinstance(name, str):
        expected = f"one of {', '.join(sorted(names))}"
        return ConfigIssue(path, expected, "nothing" if name is None else format_value(name))
    return _unknown(path, names, section, [], found=name)


def _unknown(
    path: KeyPath, known: Iterable[str], noun: str, elsewhere: list[str], *, found: str = ""
) -> ConfigIssue:
    """Suggest the closest known name, or the same name elsewhere."""
    name = found or str(path[-1])
    # Names differ in case as often as in letters.
    by_lower = {each.lower(): each for each in sorted(known)}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=SIMILARITY_CUTOFF)
    hints = [by_lower[each] for each in close] or elsewhere
    few = not hints and len(by_lower) <= _MAX_NAMED
    return ConfigIssue(
        path,
        expected=f"one of {', '.join(sorted(by_lower.values()))}" if few else f"a known {noun}",
        found=repr(name),
        hint=" or ".join(map(repr, hints)),
    )


def _elsewhere(name: str) -> list[str]:
    """Return the paths of keys with this name elsewhere, or its equivalent in DeepSpeed."""
    if name in _ELSEWHERE:
        return [_ELSEWHERE[name]]
    return [dotted(path) for path in _all(KEYS) if path[-1] == name][:2]


def _all(keys: Keys, path: KeyPath = ()) -> Iterator[KeyPath]:
    for name, below in keys.items():
        yield (*path, name)
        if below is not None:
            yield from _all(below, (*path, name))
