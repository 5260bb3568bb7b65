"""From a run's configuration to what is planned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np

from megadga.config.deepspeed import accumulation_steps
from megadga.config.deepspeed_keys import optimizer_name
from megadga.config.mixing import ExtensionOptions
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.mixers.base import AlignmentNeeds, Scheduler, TargetNeeds
from megadga.mixers.rule import RuleContext, make_scheduler
from megadga.mixers.static import uniform_weights
from megadga.planning.workload import Compiled, Decoder, Measuring, Stage, Workload, Zero
from megadga.probes.overhead import num_compared, num_measured
from megadga.report.history import read_all_weights
from megadga.report.records import read_metrics
from megadga.section import format_value
from megadga.train.data import RunData, open_data
from megadga.train.extension import make_extension
from megadga.train.mixture import (
    choose_measurement,
    importance_of_sets,
)
from megadga.train.models import read_architecture
from megadga.train.opening import mixture_over

_MAX_DEVIATION = 0.05
"""Share of a model's parameters that a decoder of equal blocks may miss (biases, norms)."""
_NOT_PLANNED = (
    ("zero_optimization", "offload_optimizer"),
    ("zero_optimization", "offload_param"),
    ("zero_optimization", "zero_hpz_partition_size"),
    ("zero_optimization", "zero_quantized_weights"),
    ("zero_optimization", "zero_quantized_gradients"),
    ("zero_optimization", "zenflow"),
    ("tensor_parallel",),
    ("sequence_parallel_size",),
    ("pipeline",),
    ("data_types",),
    ("torch_autocast",),
    ("fp16",),
)
"""DeepSpeed's settings that change what a run takes, in ways that are not modelled."""


@final
@dataclass(frozen=True)
class PlannedRun:
    """A run as numbers.

    Attributes:
        workload: Training.
        measuring: Its updates; None: they measure no alignments.
        num_domains: Training domains (K).
        steps: Optimizer steps.
        evaluation_interval: Steps between evaluations; None: there are none.
        num_evaluated: Sequences of an evaluation.
        checkpoint_interval: Steps between checkpoints; None: there are none.
        asynchronous: Whether checkpoints are written while training goes on.
    """

    workload: Workload
    measuring: Measuring | None
    num_domains: int
    steps: int
    evaluation_interval: int | None
    num_evaluated: int
    checkpoint_interval: int | None
    asynchronous: bool

    def with_workload(self, workload: Workload) -> "PlannedRun":
        """Return the same run, trained in another way."""
        return replace(self, workload=workload)


def read_planned_run(
    config: RunConfig, *, ranks: int, num_domains: int | None = None
) -> PlannedRun:
    """Return a run as it is planned.

    Args:
        config: The run.
        ranks: Devices that it trains on.
        num_domains: Domains that it shall have, or basis distributions of a rule over them; no
            shards are read then. None: those of its shards.

    Raises:
        ConfigError: If the configuration has what is not modelled, does not fit the number of
            ranks, or contradicts the shards; without shards, if it does not say the vocabulary.
    """
    _refuse_unplanned(config)
    data = open_data(config) if num_domains is None else None
    decoder = _decoder(config, data)
    workload = _workload(config, decoder, ranks)
    measuring = _measuring(config, decoder, data, num_domains)
    num = len(data.domains) if data is not None else num_domains or 0
    evaluation, checkpoint = config.evaluation, config.checkpoint
    return PlannedRun(
        workload,
        measuring,
        num,
        config.training.steps,
        None if evaluation is None else evaluation.interval,
        _num_evaluated(config, data, num),
        None if checkpoint is None else checkpoint.interval,
        checkpoint is not None and checkpoint.asynchronous,
    )


def _refuse_unplanned(config: RunConfig) -> None:
    for path in _NOT_PLANNED:
        found: Any = config.deepspeed
        for key in path:
            found = cast("Mapping[str, Any]", found).get(key) if found else None
        if not _is_used(found):
            continue
        expected = "none of it, as `megadga plan` does not model it"
        raise config.invalid("deepspeed", *path, expected=expected, found=format_value(found))


def _is_used(value: Any) -> bool:
    """Tell whether a setting does anything: sizes from 2 on, sections that are not off."""
    match value:
        case None | False:
            return False
        case True:
            return True
        case int():
            return value > 1
        case {"enabled": False} | {"device": "none"}:
            return False
        case _:
            return bool(value)


def _rows(config: RunConfig, data: RunData | None) -> int:
    if data is not None:
        return data.vocabulary_size
    if (rows := config.model.vocabulary_size) is None:
        expected = "a number beside --domains: there are no shards to take it from"
        raise config.invalid("model", "vocabulary_size", expected=expected, found="null")
    return rows


def _decoder(config: RunConfig, data: RunData | None) -> Decoder:
    match config.model:
        case LlamaModel(shape=shape, compile=compiled):
            rows = _rows(config, data)
            within: Compiled = "functions" if _zero(config).stage == 3 else "blocks"
            return Decoder.of_llama(
                shape, vocabulary_size=rows, compiled=within if compiled else "nothing"
            )
        case HuggingFaceModel():
            return _transformers_decoder(config, data)


def _transformers_decoder(config: RunConfig, data: RunData | None) -> Decoder:
    """Return a model of transformers by its configuration; only transformers knows its defaults.

    Raises:
        ConfigError: If it is no decoder of equal blocks without experts.
    """
    if data is None:
        rows = _rows(config, None)
        architecture = read_architecture(config, num_tokens=rows, eod=0)
    else:
        assert data.architecture is not None
        rows, architecture = data.vocabulary_size, data.architecture
    size = sum(math.prod(shape) for shape in architecture.parameter_shapes(rows))
    text: Any = architecture.config.get_text_config()
    for gated in (True, False):
        decoder = _equal_blocks(text, rows, gated=gated)
        if decoder is not None and abs(decoder.num_parameters - size) <= _MAX_DEVIATION * size:
            return decoder
    expected = "a decoder of equal blocks without experts, which is what is modelled"
    found = f"{size:,} parameters by {type(architecture.config).__name__}"
    raise config.invalid("model", expected=expected, found=found)


def _equal_blocks(text: Any, rows: int, *, gated: bool) -> Decoder | None:
    """Return the decoder that a configuration of transformers describes, if it names its sizes."""
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    values: list[Any] = [getattr(text, name, None) for name in names]
    if not all(isinstance(value, int) for value in values):
        return None
    layers, width, heads, intermediate = values
    head: int = getattr(text, "head_dim", None) or width // heads
    kv_heads: int = getattr(text, "num_key_value_heads", None) or heads
    return Decoder(
        num_layers=layers,
        hidden_size=width,
        num_heads=heads,
        kv_width=kv_heads * head,
        intermediate_size=intermediate,
        vocabulary_size=rows,
        tied_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        arithmetic="transformers",
        gated=gated,
    )


def _workload(config: RunConfig, decoder: Decoder, ranks: int) -> Workload:
    training = config.training
    return Workload(
        decoder,
        _zero(config),
        ranks=ranks,
        sequence_length=config.model.sequence_length,
        micro_batch=training.micro_batch_size,
        accumulation=accumulation_steps(config, ranks),
        element_bytes=2 if training.precision == "bf16" else 4,
        checkpointing=config.model.activation_checkpointing,
    )


def _zero(config: RunConfig) -> Zero:
    """Return the settings that are given, and DeepSpeed's defaults for the others."""
    given: Mapping[str, Any] = config.deepspeed.get("zero_optimization", {})
    stage = cast("Stage", given.get("stage", 0))

    def value(name: str, default: int) -> int:
        return int(given.get(f"stage3_{name}", given.get(name, default)))

    overlap = given.get("overlap_comm")
    params = config.deepspeed.get("optimizer", {}).get("params", {})
    composed = params.get("torch_adam") and not params.get("fused")
    fused = optimizer_name(config.deepspeed) in {"Adam", "AdamW"} and not composed
    return Zero(
        stage,
        reduce_bucket=value("reduce_bucket_size", Zero.reduce_bucket),
        overlap_comm=stage == 3 if overlap is None else bool(overlap),
        persistence_threshold=value("param_persistence_threshold", Zero.persistence_threshold),
        max_live=value("max_live_parameters", Zero.max_live),
        max_reuse_distance=value("max_reuse_distance", Zero.max_reuse_distance),
        fused_optimizer=fused,
    )


def _measuring(
    config: RunConfig, decoder: Decoder, data: RunData | None, num_domains: int | None
) -> Measuring | None:
    if data is None:
        assert num_domains is not None
        scheduler = _planned_scheduler(config, num_domains)
        probe, updates = choose_measurement(
            config, scheduler, num_domains=num_domains, matrices=lambda: decoder.matrices
        )
        total = num_domains
    else:
        mixture = mixture_over(config, data)
        scheduler, probe, updates = mixture.scheduler, mixture.probe, mixture.updates
        total = len(data.domains)
    needs = scheduler.observes
    if probe is None or updates is None or not isinstance(needs, AlignmentNeeds | TargetNeeds):
        return None
    measured = num_measured(needs, total)
    alignment = isinstance(needs, AlignmentNeeds)
    return Measuring(
        probe=probe,
        num_measured=measured,
        specific_sequences=num_compared(needs, probe, measured),
        interval=updates.interval,
        num_updates=updates.count(config.training.steps),
        preconditioned=needs.preconditioned,
        norms=needs.norms,
        num_targets=1 if alignment else needs.num_targets,
    )


def _planned_scheduler(config: RunConfig, num_domains: int) -> Scheduler:
    """Return a run's rule over domains of one size, with uniform weights: what it will observe."""
    training = config.training
    tokens = training.steps * training.global_batch_size * config.model.sequence_length
    context = RuleContext(
        domains=tuple(f"domain-{index}" for index in range(num_domains)),
        tokens=np.full(num_domains, tokens, dtype=np.int64),
        total_steps=training.steps,
        weights=lambda _, __: uniform_weights(num_domains),
        epochs_per_step=np.full(num_domains, 1.0 / training.steps),
        importance=importance_of_sets(config),
        error=config.error,
        read_history=lambda metrics: read_all_weights(read_metrics(metrics)),
    )
    if isinstance(config.mixing, ExtensionOptions):
        return make_extension(config.mixing, context, tuple(config.data.specific))
    return make_scheduler(config.mixing, context)


def _num_evaluated(config: RunConfig, data: RunData | None, num_domains: int) -> int:
    """Return the sequences of an evaluation; without shards, all that it may have."""
    if config.evaluation is None:
        return 0
    most = config.evaluation.sequences
    if data is None:
        return most * (num_domains + len(config.data.specific) + len(config.evaluation.sets))
    held_out = (*data.held_out, *data.held_out_specific)
    return sum(min(each.num_sequences, most) for each in held_out)
