"""Writes the trace of a run: what every sequence's gradient was, and what a step made of it."""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch

from megadga.arrays import FloatArray
from megadga.config.deepspeed_keys import DEFAULT_CLIPPING
from megadga.config.run import RunConfig
from megadga.errors import ConfigError, ResumeError, UnsupportedEngineError
from megadga.plugin import Batch, Metrics
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.directions import check_moments
from megadga.probes.engine import Engine
from megadga.probes.moments import mean_denominators
from megadga.probes.sequence_gradients import Projection, SequenceGradients
from megadga.report.sampling import BatchLayout
from megadga.run_folder.trace import (
    TRACE,
    TracedParameter,
    TracedStep,
    TraceHeader,
    check_header,
    open_trace_file,
    trace_path,
)
from megadga.train.appending import AppendedFile
from megadga.train.components import checkpoint_plan
from megadga.train.ranks import on_every_rank, on_first_rank
from megadga.train.trace_size import TraceSize, check_limit
from megadga.train.trainer import ObserveLosses, StepTrainer

_CLIPPING_EPSILON = 1e-6
"""That DeepSpeed adds to the norm by which it clips."""


class StepRates(Protocol):
    """Returns by what the optimizer has multiplied the mean gradient in a step."""

    def __call__(self, train: Mapping[str, Any]) -> tuple[FloatArray, float]:
        """Return the factor of each parameter, shape ``(P,)``, and the share of the weights kept.

        Collective.

        Args:
            train: The step's ``train`` record.
        """
        ...


@final
class OptimizerRates:
    """Learning rate times clipping, under AdamW over the denominator; ``StepRates``.

    Under AdamW a parameter's gradient is divided by one number, the root of its mean second
    moment (``mean_denominators``), and counts in the step that it is of, not over the steps that
    the first moment spreads it over.

    Args:
        engine: A DeepSpeed engine.
        collective: Its ranks.
        names: Parameters.
        clipping: Largest norm of the gradient; 0: it is not clipped.

    Attributes:
        optimizer: ``SGD`` or ``AdamW``.

    Raises:
        UnsupportedEngineError: If the optimizer is another one, or its moments cannot be read.
    """

    def __init__(
        self,
        engine: Any,
        collective: ProcessGroupCollective,
        names: Sequence[str],
        *,
        clipping: float,
    ) -> None:
        self._engine, self._collective = engine, collective
        parameters = dict(engine.module.named_parameters())
        self._parameters = [parameters[name] for name in names]
        self._clipping = clipping
        self.optimizer = "SGD" if type(engine.basic_optimizer) is torch.optim.SGD else "AdamW"
        if self.optimizer == "AdamW":
            check_moments(engine, needed_by="trace")

    def __call__(self, train: Mapping[str, Any]) -> tuple[FloatArray, float]:
        """See ``StepRates``."""
        rate = float(train["learning_rate"])
        decay = float(self._engine.basic_optimizer.param_groups[0].get("weight_decay", 0.0))
        applied = rate * self._clipped(train["grad_norm"])
        rates = np.full(len(self._parameters), applied)
        if self.optimizer == "AdamW":
            rates /= mean_denominators(self._engine, self._collective, self._parameters)
        return rates, 1.0 - rate * decay

    def _clipped(self, norm: float | None) -> float:
        """Return what the gradient was multiplied by to have at most the largest norm."""
        if not self._clipping:
            return 1.0
        if norm is None:
            raise UnsupportedEngineError(
                "trace: expected the gradient's norm, by which it was clipped, found none: "
                "deepspeed.gradient_clipping: 0 does without"
            )
        return (
            min(1.0, self._clipping / (norm + _CLIPPING_EPSILON)) if math.isfinite(norm) else 0.0
        )


@final
class TracingTrainer:
    """Trains as the trainer that it wraps, and writes down what each step was; ``StepTrainer``.

    Args:
        trainer: Completes the steps, on mean losses in which all sequences count the same.
        gradients: Collects them from the same passes.
        rates: Tells what the optimizer makes of them.
        file: This rank's; holds the steps before.
        header: Of that file.
        due: Whether the file is synced to disk after a step, as a checkpoint relies on it.
    """

    def __init__(
        self,
        trainer: StepTrainer,
        gradients: SequenceGradients,
        rates: StepRates,
        file: AppendedFile,
        *,
        header: TraceHeader,
        due: Callable[[int], bool],
    ) -> None:
        self._trainer = trainer
        self._gradients = gradients
        self._rates = rates
        self._file = file
        self._header = header
        self._due = due

    def revise(self, names: Sequence[str], observe_losses: ObserveLosses) -> None:
        """See ``StepTrainer``: never called, as the data of a traced run stay."""
        self._trainer.revise(names, observe_losses)

    def step(self, batch: Batch) -> Metrics:
        """See ``StepTrainer``.

        Raises:
            OSError: If the step cannot be written.
        """
        indices = batch.indices
        with self._gradients.collecting(batch.tokens.shape[1]) as found:
            metrics = self._trainer.step(batch)
        rates, kept = self._rates(metrics["train"])
        # The engine differentiates the mean over this rank's sequences of all micro-batches.
        gradients = torch.cat(found).numpy() * indices.rows.size
        traced = TracedStep(
            batch.step,
            kept,
            rates / self._header.global_batch_size,
            indices.domains.reshape(-1),
            indices.sequences.reshape(-1),
            gradients,
        )
        self._file.append(traced.encoded())
        if self._due(batch.step):
            self._file.sync()
        return metrics


def trace_trainer(
    trainer: StepTrainer,
    config: RunConfig,
    engine: Engine,
    collective: ProcessGroupCollective,
    layout: BatchLayout,
    *,
    domains: Sequence[str],
    completed: int | None,
    report: Callable[[str], None],
) -> StepTrainer:
    """Return a trainer that writes the run's trace as well, if it is to have one. Collective.

    Args:
        trainer: The run's.
        config: The run.
        engine: DeepSpeed's.
        collective: The ranks.
        layout: Of the batches.
        domains: Names of the training domains.
        completed: Steps that the run has completed, whose trace it goes on with; None: it is not
            to be trained.
        report: Called on rank 0 with a line for the user.

    Raises:
        ConfigError: If the trace would be larger than it may be, or than the disk allows.
        ResumeError: If what is on disk is not the trace of this run up to ``completed`` steps; on
            every rank.
        UnsupportedEngineError: If the model has other matrices than those of linear layers and
            embeddings, or the optimizer's moments cannot be read.
    """
    if config.trace is None or completed is None:
        return trainer
    projection = Projection(config.trace.dimension, config.seed)
    gradients = SequenceGradients(engine.module, projection, engine.device)
    names = [piece.name for piece in gradients.pieces]
    clipping = float(config.deepspeed.get("gradient_clipping", DEFAULT_CLIPPING))
    rates = OptimizerRates(engine, collective, names, clipping=clipping)
    header = TraceHeader(
        rank=collective.rank,
        ranks=collective.world_size,
        global_batch_size=layout.global_batch_size,
        sequence_length=layout.sequence_length,
        seed=config.seed,
        dimension=config.trace.dimension,
        optimizer=rates.optimizer,
        shards=layout.shards,
        domains=tuple(domains),
        parameters=tuple(TracedParameter(p.name, p.shape, p.kept) for p in gradients.pieces),
    )
    on_first_rank(
        collective, lambda: check_space(config, header, completed=completed, report=report)
    )
    path = trace_path(config.output, collective.rank)
    on_every_rank(collective, lambda: begin_file(path, header, completed=completed))
    due = checkpoint_plan(config).due
    return TracingTrainer(trainer, gradients, rates, AppendedFile(path), header=header, due=due)


def trace_bytes(header: TraceHeader, *, steps: int) -> int:
    """Return the bytes of the files of all ranks after a number of steps."""
    return header.ranks * (len(header.encoded()) + steps * header.frame_bytes)


def check_space(
    config: RunConfig, header: TraceHeader, *, completed: int, report: Callable[[str], None]
) -> None:
    """Say how large the trace will be, or refuse it; on rank 0.

    Args:
        config: The run, with a trace.
        header: Of rank 0's file.
        completed: Steps whose trace there is.
        report: Called with a line for the user.

    Raises:
        ConfigError: If it would be larger than it may be, or than the disk allows.
    """
    size = TraceSize(
        int(header.sizes.sum()),
        trace_bytes(header, steps=config.training.steps),
        header.global_batch_size,
    )
    check_limit(config, size)
    left = header.ranks * (config.training.steps - completed) * header.frame_bytes
    free = shutil.disk_usage(config.output).free
    if left > free:
        expected = f"a disk with {left / 1e9:.4g} GB free for the trace ({size.content})"
        raise config.invalid("output", expected=expected, found=f"{free / 1e9:.4g} GB")
    report(f"{config.output / TRACE}: {size}")


def begin_file(path: Path, header: TraceHeader, *, completed: int) -> None:
    """Write the beginning of a rank's file, or cut it to the completed steps.

    Raises:
        ConfigError: If it cannot be written.
        ResumeError: If it does not have these steps of this run.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        if completed == 0:
            path.write_bytes(header.encoded())
            return
        file = open_trace_file(path)
        check_header(path, header.as_json(), file.header.as_json())
        if file.num_steps < completed:
            raise ResumeError(
                f"{path}: expected the trace of the {completed} steps before, found "
                f"{file.num_steps}: trace: null goes on without"
            )
        os.truncate(path, file.end_of(completed))
    except ConfigError as error:
        raise ResumeError(f"{error}: trace: null goes on without") from None
    except OSError as error:
        raise ConfigError(f"{path}: expected a file to write, found {error.strerror}") from None
