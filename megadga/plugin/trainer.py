"""Mixing in the ``Trainer`` of ``transformers``: its training set, and the callback for updates.

The ``Trainer`` is not patched. Its data loader reads ahead within an epoch, past an update if one
is due there; so an epoch of the training set is a single optimizer step.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from megadga.arrays import IntArray
from megadga.data.domain import SequenceSet
from megadga.data.files import atomic_write
from megadga.data.targets import INPUT_ONLY, PADDING
from megadga.errors import ConfigError, ResumeError
from megadga.mixers.base import Scheduler
from megadga.mixers.probing import DIRECTIONAL, Probe
from megadga.mixers.updates import UpdateSteps
from megadga.plugin.batches import Sampling
from megadga.plugin.mixture import MixturePlugin
from megadga.plugin.protocol import flatten
from megadga.plugin.trainer_checks import check_trained_loss, check_trainer
from megadga.probes.loss import Loss, causal_lm_loss

STATE_FILE = "mixture.pt"
"""The mixture's state in a checkpoint folder of the ``Trainer``."""

_TRAINER_STATE_FILE = "trainer_state.json"
_CPU = torch.device("cpu")

Features = dict[str, NDArray[np.int64]]
"""One sequence as models of ``transformers`` take it: ``input_ids`` and ``labels``."""


@final
class SequenceDataset(Dataset[Features]):
    """A set of sequences, for a ``Trainer`` to evaluate on.

    Each is all ``S + 1`` tokens as ``input_ids`` and as ``labels``, which are -100 for padding and
    for tokens that are inputs alone: the model shifts labels by itself.

    Args:
        sequences: The validation split of a domain, or of the specific set.
    """

    def __init__(self, sequences: SequenceSet) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return self._sequences.num_sequences

    def __getitem__(self, index: int) -> Features:
        """Return one sequence; arrays of shape ``(S + 1,)``."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Features]:
        """Return some sequences, in this order."""
        return _features(self._sequences.windows(np.asarray(indices, dtype=np.int64)))


@final
class MixtureDataset(Dataset[Features]):
    """The ``train_dataset`` of a ``Trainer`` with a ``MixtureCallback``.

    It has as many items as an optimizer step has sequences, so that one of the Trainer's epochs is
    one optimizer step: the next batch is planned after the update that decides it. Whatever
    indices a sampler draws, each rank gets its planned micro-batches, one by one.

    Args:
        domains: The ``K`` training domains, with the same sequence length ``S``: streams, of text
            or dialogues, or sets of dialogues (``open_chat``) or other examples. The model
            receives ``S + 1`` tokens.
        args: The ``Trainer``'s arguments, which determine the batch size.
    """

    def __init__(self, domains: Sequence[SequenceSet], args: TrainingArguments) -> None:
        self.domains = tuple(domains)
        self._micro_batch_size = args.train_batch_size
        num_ranks = cast("int", args.world_size)
        self._size = args.train_batch_size * args.gradient_accumulation_steps * num_ranks
        self._micro_batches: Iterator[IntArray] = iter(())
        self._plugin: MixturePlugin | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Features:
        """Return a window of the first domain, for those who look what an item is."""
        return SequenceDataset(self.domains[0])[index % self.domains[0].num_sequences]

    def __getitems__(self, indices: Sequence[int]) -> list[Features]:
        """Return this rank's next micro-batch, whatever the indices.

        Collective at the first micro-batch of a step, if the update that follows it is measured in
        flight.

        Raises:
            ConfigError: If training has begun without a ``MixtureCallback``, or the sampler's
                micro-batches are of another size.
        """
        if self._plugin is None:
            raise ConfigError(
                "Trainer: expected trainer.add_callback(MixtureCallback(trainer, ...)) before "
                "training on a MixtureDataset, found none"
            )
        if len(indices) != self._micro_batch_size:
            raise ConfigError(
                f"Trainer: expected micro-batches of {self._micro_batch_size} sequences, found "
                f"one of {len(indices)}"
            )
        tokens = next(self._micro_batches, None)
        if tokens is None:
            self._micro_batches = iter(self._plugin.next_batch(_CPU).tokens.numpy())
            tokens = next(self._micro_batches)
        return _features(tokens)

    def feed_from(self, plugin: MixturePlugin) -> None:
        """Take all further micro-batches from a plugin, beginning with its next step."""
        self._plugin, self._micro_batches = plugin, iter(())


@final
class MixtureCallback(TrainerCallback):
    """Updates the mixture that a ``Trainer`` with DeepSpeed trains on.

    Add it to a Trainer whose ``train_dataset`` is a ``MixtureDataset``::

        trainer = Trainer(model=model, args=args, train_dataset=MixtureDataset(domains, args))
        trainer.add_callback(
            MixtureCallback(trainer, specific, scheduler, sampling=Sampling(seed=17))
        )
        trainer.train()

    Records of updates and events are logged by ``Trainer.log``, with keys that begin with
    ``mixture/``. Each checkpoint holds the state in ``mixture.pt``; ``trainer.train`` resumes from
    it, exactly. A checkpoint outside of ``args.output_dir`` must also be named by
    ``args.resume_from_checkpoint``, as callbacks are not told what the Trainer resumes from.

    Args:
        trainer: The Trainer, or an instance of a class derived from it, with DeepSpeed.
        specific: As of ``MixturePlugin``, as are the other arguments.
        scheduler: One that needs no training losses.
        sampling: How windows are sampled.
        interval: ``T_r``, optimizer steps between updates.
        probe: How alignments are measured.
        loss: Computes the loss that alignments are of; by default the mean cross-entropy of a
            causal language model's logits over targets that are not -100.
        general: Key of an evaluation's metrics, such as ``eval_general_loss``, whose values are
            reported as the domains' mean validation loss (``observe_general``); None: none is.

    Attributes:
        plugin: The plugin, from the beginning of training on.

    Raises:
        ConfigError: If arguments of the Trainer contradict the mixture; names each.
        UnsupportedEngineError: If the Trainer does not use DeepSpeed.
    """

    def __init__(
        self,
        trainer: Trainer,
        specific: SequenceSet | Sequence[SequenceSet] | None,
        scheduler: Scheduler,
        *,
        sampling: Sampling,
        interval: int | UpdateSteps = 100,
        probe: Probe = DIRECTIONAL,
        loss: Loss = causal_lm_loss,
        general: str | None = None,
    ) -> None:
        dataset = cast("Any", trainer.train_dataset)
        if not isinstance(dataset, MixtureDataset):
            raise ConfigError(
                "Trainer: expected a MixtureDataset as its train_dataset, found "
                f"{type(dataset).__name__}"
            )
        if sampling.objective is not None:
            raise ValueError(
                "sampling.objective: expected None, as the Trainer's loss is the mean over the "
                "targets of its batches, found a mixture"
            )
        measures_default = loss is causal_lm_loss
        check_trainer(trainer, scheduler, probe, measures_default=measures_default)
        self._trainer: Any = trainer  # many of its attributes are of types that are not known
        self._dataset = dataset
        self._specific = specific
        self._scheduler = scheduler
        self._options: dict[str, Any] = {
            "sampling": sampling,
            "interval": interval,
            "probe": probe,
            "loss": loss,
        }
        self._measures_default = measures_default
        self._general = general
        self.plugin: MixturePlugin | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002  (of the protocol)
        **_: Any,
    ) -> None:
        """Build the plugin on the engine that the Trainer has prepared. Collective."""
        if state.is_hyper_param_search:
            raise ConfigError(
                "Trainer: expected train() of one run, found a hyperparameter search"
            )
        if self.plugin is not None:
            self.plugin.close()
        engine = self._trainer.model_wrapped
        if engine.train_batch_size() != len(self._dataset):
            raise ConfigError(
                "MixtureDataset: expected the batch size of the Trainer's engine, "
                f"{engine.train_batch_size()} sequences, found {len(self._dataset)}; make it with "
                "the arguments of this Trainer (and use_cpu=True on CPUs)"
            )
        first = SequenceDataset(self._dataset.domains[0])[0]
        check_trained_loss(self._trainer, [first], compare_loss=self._measures_default)
        self.plugin = MixturePlugin(
            engine, self._dataset.domains, self._specific, self._scheduler, **self._options
        )
        if state.global_step:
            self.plugin.load_state_dict(_read_state(args, state))
        self._dataset.feed_from(self.plugin)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Update the mixture if an update is due, and log it. Collective."""
        assert self.plugin is not None
        metrics = self.plugin.after_step(state.global_step)
        if metrics:
            is_due = control.should_log
            # Not that of a derived class, which may add means since its last call, as SFTTrainer.
            Trainer.log(self._trainer, flatten(metrics, prefix="mixture"))
            control.should_log = is_due  # logging clears it, but the step's loss is not logged yet

    def on_evaluate(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **given: Any,
    ) -> None:
        """Report the domains' mean validation loss, if it is among the metrics."""
        metrics: Mapping[str, float] = given["metrics"]
        if self.plugin is not None and self._general is not None and self._general in metrics:
            self.plugin.observe_general(metrics[self._general])

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Write the mixture's state into the checkpoint that the Trainer has written."""
        assert self.plugin is not None
        if args.should_save and not args.save_only_model:
            folder = _own_checkpoint(args, state)
            with atomic_write(folder / STATE_FILE) as file:
                torch.save(self.plugin.state_dict(), file)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Stop prefetching and remove hooks."""
        assert self.plugin is not None
        self.plugin.close()


def _features(tokens: IntArray) -> list[Features]:
    """Return sequences of tokens ``(n, S + 1)`` as a model of ``transformers`` takes them."""
    inputs = np.where(tokens <= INPUT_ONLY, INPUT_ONLY - tokens, np.maximum(tokens, 0))
    labels = np.where(tokens >= 0, tokens, PADDING)
    return [
        {"input_ids": row, "labels": targets} for row, targets in zip(inputs, labels, strict=True)
    ]


def _own_checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    assert args.output_dir is not None
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _read_state(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Return the mixture's state from the checkpoint that the Trainer has resumed from.

    Raises:
        ResumeError: If it is not found, or of another run.
    """
    given = Path(args.resume_from_checkpoint or "")
    named = (given / _TRAINER_STATE_FILE).is_file()
    folder = given if args.resume_from_checkpoint and named else _own_checkpoint(args, state)
    path, trained = folder / STATE_FILE, folder / _TRAINER_STATE_FILE
    if not path.is_file() or not trained.is_file():
        raise ResumeError(
            f"{path}: expected the mixture's state, found none; name the checkpoint that "
            "trainer.train() resumes from in TrainingArguments.resume_from_checkpoint if it is "
            "not in output_dir"
        )
    saved = TrainerState.load_from_json(str(trained))
    # Callbacks are not told the folder: what the Trainer has loaded is compared with it instead.
    if _history(saved) != _history(state):
        raise ResumeError(
            f"{folder}: expected the checkpoint that the Trainer resumes from, found one with "
            "another history; name it in TrainingArguments.resume_from_checkpoint"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _history(state: TrainerState) -> str:
    return json.dumps([state.global_step, state.log_history])  # NaN equals itself as text
