"""What a ``Trainer`` must be like for its training, and alignments measured in it, to be exact."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer, TrainingArguments

from megadga.errors import ConfigError, UnsupportedEngineError
from megadga.mixers.base import LossNeeds, Scheduler
from megadga.mixers.probing import InFlight, Probe
from megadga.probes.loss import causal_lm_loss
from megadga.probes.state import evaluating

_CLOSE = 2e-2
"""Relative difference of two losses up to which they are the same, in bfloat16."""


@dataclass(frozen=True)
class _Rule:
    """Values of an argument that are refused.

    Attributes:
        refused: These; none of them is a default.
        expected: What to use instead.
        reason: Why.
    """

    refused: tuple[Any, ...]
    expected: str
    reason: str


_EPOCH = _Rule(("epoch",), "'steps' or 'no'", "an epoch of a MixtureDataset is one step")
_SHARDS = "sequences are trained as they are in the shards"
_BY_LENGTH = "the mixture decides which sequences are in a batch"

_ARGUMENTS: Mapping[str, _Rule] = {
    "auto_find_batch_size": _Rule((True,), "False", "the plan depends on the batch size"),
    "enable_jit_checkpoint": _Rule(
        (True,), "False", "its checkpoints are written without telling callbacks"
    ),
    "eval_strategy": _EPOCH,
    "logging_strategy": _EPOCH,
    "packing": _Rule((True,), "False", _SHARDS),  # of TRL, as is the next
    "padding_free": _Rule((True,), "False", _SHARDS),
    "save_strategy": _EPOCH,
    "train_sampling_strategy": _Rule(
        ("group_by_length", "batch_rebalance"), "'random' or 'sequential'", _BY_LENGTH
    ),
}

_ACCELERATOR: Mapping[str, _Rule] = {
    "dispatch_batches": _Rule((True,), "None or False", "each rank reads its own sequences"),
    "split_batches": _Rule((True,), "False", "the batch size is one of each rank's micro-batch"),
}


def check_trainer(
    trainer: Trainer, scheduler: Scheduler, probe: Probe, *, measures_default: bool
) -> None:
    """Refuse a Trainer that would not train on exactly what is planned, or measure something else.

    Args:
        trainer: Before training.
        scheduler: Updates its mixture.
        probe: Measures in it.
        measures_default: Whether alignments are of a causal language model's mean loss, not of one
            that the user gives.

    Raises:
        ConfigError: With a line for each argument that is refused.
        UnsupportedEngineError: If the Trainer does not use DeepSpeed.
    """
    if not trainer.is_deepspeed_enabled:
        raise UnsupportedEngineError(
            "Trainer: expected one with DeepSpeed (TrainingArguments.deepspeed, or a DeepSpeed "
            "configuration of accelerate), found none"
        )
    problems = [
        *_argument_problems(trainer.args),
        *_loss_problems(trainer, measures_default=measures_default),
        *(_in_flight_problems(trainer) if isinstance(probe, InFlight) else ()),
    ]
    if isinstance(scheduler.observes, LossNeeds):
        problems.append(
            "scheduler: expected one that needs no training losses of single sequences, which a "
            f"Trainer does not report, found {type(scheduler).__name__}"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _argument_problems(args: TrainingArguments) -> Iterator[str]:
    values: dict[str, Any] = vars(args)
    yield from _refused("TrainingArguments", values, _ARGUMENTS)
    config = vars(args.accelerator_config)
    yield from _refused("TrainingArguments.accelerator_config", config, _ACCELERATOR)
    if args.max_steps <= 0:
        yield (
            "TrainingArguments.max_steps: expected a number of optimizer steps above 0, found "
            f"{args.max_steps}: an epoch of a MixtureDataset is one step, so the length of "
            "training is not a number of epochs"
        )
    if args.dataloader_num_workers:
        yield (
            "TrainingArguments.dataloader_num_workers: expected 0, found "
            f"{args.dataloader_num_workers}: workers would read past an update; set "
            "Sampling.prefetch, the batches that are read in the background"
        )
    if values.get("parallelism_config") is not None:
        yield (
            "TrainingArguments.parallelism_config: expected None, found one: batches are planned "
            "for data parallelism alone"
        )


def _refused(where: str, values: Mapping[str, Any], rules: Mapping[str, _Rule]) -> Iterator[str]:
    for name, rule in rules.items():
        value = values.get(name)
        found = getattr(value, "value", value)  # enumerations
        if found is not None and found in rule.refused:
            yield f"{where}.{name}: expected {rule.expected}, found {found!r}: {rule.reason}"


def _loss_problems(trainer: Trainer, *, measures_default: bool) -> Iterator[str]:
    if not measures_default:
        return
    factor = trainer.args.label_smoothing_factor
    if factor:
        yield (
            f"TrainingArguments.label_smoothing_factor: expected 0, found {factor}: alignments "
            "would be of the loss without smoothing; give MixtureCallback the trained loss (loss=)"
        )
    if trainer.compute_loss_func is not None:
        yield (
            "Trainer.compute_loss_func: expected None, found one: alignments would be of the "
            "mean cross-entropy; give MixtureCallback the trained loss (loss=)"
        )


def _in_flight_problems(trainer: Trainer) -> Iterator[str]:
    """Yield why the backward pass is not of the mean loss that the module returns."""
    advice = "measure with probe Directional()"
    if overrides_loss(trainer):
        yield (
            "probe: expected Trainer's own compute_loss and training_step in flight, found those "
            f"of {type(trainer).__name__}; {advice}"
        )
    if trainer.compute_loss_func is not None or trainer.args.label_smoothing_factor:
        yield (
            "probe: expected the mean loss that the model returns in flight, found "
            f"compute_loss_func or label_smoothing_factor; {advice}"
        )
    if trainer.args.use_liger_kernel:
        yield (
            "TrainingArguments.use_liger_kernel: expected False in flight, found True: its fused "
            f"loss does not call the output layer; {advice}"
        )


def overrides_loss(trainer: Trainer) -> bool:
    """Tell whether a class derived from ``Trainer`` computes its loss, or its steps, otherwise."""
    kind = type(trainer)
    return (
        kind.compute_loss is not Trainer.compute_loss
        or kind.training_step is not Trainer.training_step
    )


def check_trained_loss(
    trainer: Trainer, features: Sequence[Mapping[str, NDArray[np.int64]]], *, compare_loss: bool
) -> None:
    """Check that a Trainer trains on its sequences as they are, and on the loss that is measured.

    Collective. In evaluation mode, so that no random state moves.

    Args:
        trainer: Has prepared its engine.
        features: A few sequences of its training set, ``input_ids`` and ``labels``.
        compare_loss: Whether the trained loss should be ``causal_lm_loss``.

    Raises:
        ConfigError: If the data collator changes them, or the losses differ.
    """
    batch: Mapping[str, Any] = trainer.data_collator([dict(each) for each in features])
    for name in ("input_ids", "labels"):
        expected = torch.from_numpy(np.stack([each[name] for each in features]))
        found = batch.get(name)
        if not isinstance(found, torch.Tensor) or not torch.equal(found.cpu(), expected):
            raise ConfigError(
                f"Trainer.data_collator: expected {name!r} as the training set has it, found "
                f"something else from {type(trainer.data_collator).__name__}; leave it out"
            )
    if not compare_loss or overrides_loss(trainer):
        return
    untyped: Any = trainer
    engine = untyped.model_wrapped
    inputs = {name: value.to(engine.device) for name, value in batch.items()}
    _, num_items = untyped.get_batch_samples(iter([inputs]), 1, engine.device)
    with torch.no_grad(), evaluating(engine.module):
        measured = float(causal_lm_loss(engine, inputs["labels"]))
        trained = float(untyped.compute_loss(engine, inputs, num_items_in_batch=num_items))
    if not abs(trained - measured) <= _CLOSE * abs(measured):
        raise ConfigError(
            f"loss: expected the Trainer's loss to be the mean cross-entropy of the model's "
            f"logits, {measured:.6g} for its first sequences, found {trained:.6g}; give "
            "MixtureCallback the trained loss (loss=)"
        )
