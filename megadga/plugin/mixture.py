"""The plugin that a DeepSpeed loop registers: batches by domain, and mixture updates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.data.sampler import SamplerState
from megadga.errors import ResumeError
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    LossNeeds,
    MixtureState,
    Observed,
    Scheduler,
    StepNeeds,
    StepNumber,
    TargetAlignments,
    TargetNeeds,
)
from megadga.mixers.probing import DIRECTIONAL, InFlight, Probe
from megadga.plugin.batches import Batch, BatchIndices, BatchSource, Sampling
from megadga.plugin.observing import TrainingLosses, as_targets, measure_for
from megadga.plugin.protocol import Metrics
from megadga.plugin.records import ProbeClock, UpdateRecords
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine
from megadga.probes.loss import Loss, mean_loss
from megadga.probes.overhead import num_measured, predicted_overhead
from megadga.probes.sequences import TrainedBatch


@final
class MixturePlugin:
    """Online data mixing for any DeepSpeed loop (Dynamic Gradient Alignment, arXiv 2410.02498).

    Each optimizer step, take ``next_batch()`` (or ``next_indices()`` and read the windows
    yourself), train on its micro-batches, then call ``after_step(step)`` on every rank. Every
    ``interval`` steps that measures the domains' alignments and updates the mixture. Put
    ``state_dict()`` into ``engine.save_checkpoint(client_state=...)``.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0-3; its ``train_batch_size()`` is ``B``.
        domains: The training domains, ``K`` of them, of one sequence length.
        specific: What the model should become good at: one set, or several in the order of a
            scheduler's targets; None only for a scheduler that aligns to no such set. If it is
            padded (``Examples``), the module is shown ``PADDING`` among its tokens when alignments
            are measured, and at no other time.
        scheduler: The algorithm that moves the weights.
        sampling: How windows are drawn.
        interval: ``T_r``, optimizer steps between updates, at least 1.
        probe: How an update's alignments are measured, and on how many sequences.
        loss: Mean loss of tokens ``(b, S + 1)`` through a module, over the targets that are not
            padding, or what it counts of them (see ``Loss``); by default what the module returns,
            or its mean if that is a loss a token.

    Where the rule measures alignments, construction is collective: a few sequences pass through
    the module, so that what cannot be measured is refused before anything is trained.

    In flight (``InFlight``), what is handed to ``engine.backward`` must be the mean loss
    over the targets of a micro-batch, times any number, and taking the batch of an update step is
    collective, as that is when the direction is measured.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on this engine, or this
            module and its loss cannot be measured.
        ValueError: If the arguments contradict each other.
    """

    name = "mixture"

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[Domain],
        specific: SequenceSet | Sequence[SequenceSet] | None,
        scheduler: Scheduler,
        *,
        sampling: Sampling,
        interval: int = 100,
        probe: Probe = DIRECTIONAL,
        loss: Loss = mean_loss,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval: expected at least 1 step, found {interval}")
        self.names = tuple(domain.name for domain in domains)
        self._scheduler = scheduler
        self._interval = interval
        self._collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self._batches = BatchSource(engine, domains, sampling, collective=self._collective)
        self._mixture = self._agreed(scheduler.init())
        if self._mixture.weights.shape != self._batches.sizes.shape:
            raise ValueError(
                f"scheduler: expected weights over {len(domains)} domains, "
                f"found shape {self._mixture.weights.shape}"
            )
        # What a saved state must agree on, or its cursors would mean other sequences.
        self._identity: dict[str, Any] = {
            "domains": list(self.names),
            "windows": self._batches.sizes.tolist(),
            "global_batch_size": engine.train_batch_size(),
            "seed": sampling.seed,
        }
        targets = as_targets(specific)
        if isinstance(scheduler.observes, TargetNeeds):
            self._identity["targets"] = [target.name for target in targets]
        self._sequence_length = domains[0].sequence_length
        self._clock = ProbeClock(time.perf_counter)
        self._in_flight = isinstance(probe, InFlight)
        self._synchronize = partial(_synchronize, engine.device)
        self._needs = scheduler.observes
        wants_reference = self._needs == LossNeeds(reference=True)
        self._losses = TrainingLosses(len(domains), reference=wants_reference)
        self._general_loss: float | None = None
        self._measurement = measure_for(
            self._needs, engine, domains, targets, probe=probe, loss=loss, seed=sampling.seed
        )
        self._predicted_overhead = 0.0
        if isinstance(self._needs, AlignmentNeeds | TargetNeeds):
            self._predicted_overhead = predicted_overhead(
                probe,
                num_domains=num_measured(self._needs, len(domains)),
                interval=interval,
                global_batch_size=engine.train_batch_size(),
                needs=self._needs,
            ).share
        self._records = UpdateRecords(
            self.names, self._needs, tuple(target.name for target in targets)
        )

    @property
    def step(self) -> int:
        """Optimizer steps whose batches were handed out."""
        return self._batches.state.step

    @property
    def weights(self) -> FloatArray:
        """The averaged weights that batches are sampled from, shape ``(K,)``."""
        return self._mixture.averaged_weights

    @property
    def epochs(self) -> FloatArray:
        """How often each domain has been gone through, shape ``(K,)``."""
        return self._batches.epochs

    def next_batch(self) -> Batch:
        """Return this rank's tokens of the next optimizer step, and advance."""
        batch = self._batches.next_batch(self.weights, self._is_update, self._expected)
        self._prepare(batch.indices)
        return batch

    def next_indices(self) -> BatchIndices:
        """Return which windows make up the next optimizer step, read nothing, and advance."""
        indices = self._batches.next_indices(self.weights)
        self._prepare(indices)
        return indices

    def observe_losses(
        self, domains: IntArray, losses: FloatArray, reference_losses: FloatArray | None = None
    ) -> None:
        """Tell what an optimizer step was trained at, before ``after_step``. Not collective.

        Rules that follow the losses of training need it of every step; to others it is nothing.

        Args:
            domains: Domain of each sequence, as ``indices.global_domains``, shape ``(B,)``.
            losses: Mean loss of each, nats a token, shape ``(B,)``. Of the whole global batch, and
                equal on every rank.
            reference_losses: A reference model's on the same sequences, for a rule that compares
                the two (``Doremi``); to others it is nothing.

        Raises:
            ValueError: If the shapes differ, a domain is none, or the rule needs a reference
                model's losses and there are none.
        """
        if isinstance(self._needs, LossNeeds):
            self._losses.add(domains, losses, reference_losses)

    def observe_general(self, loss: float) -> None:
        """Tell the mean validation loss over the domains after an evaluation. Not collective.

        A `general_guard` needs it; the last one holds until the next.

        Args:
            loss: Nats a token, equal on every rank.
        """
        self._general_loss = loss

    def after_step(self, step: int) -> Metrics:
        """Update the mixture if one is due. Collective: call it on every rank.

        Args:
            step: Optimizer steps completed so far, equal to ``self.step``.

        Returns:
            An ``update`` record (see ``UpdateRecords``), with an ``event`` if a guard began or
            ended with it; or an ``event`` if the update was left out; or nothing.

        Raises:
            ValueError: If batches and steps have gone out of step, or the rule follows losses and
                was not told of any.
        """
        if step != self.step:
            raise ValueError(
                f"after_step: expected step {self.step}, the batches handed out, found {step}"
            )
        due = self._is_update(step)
        if due and self._measurement is not None:
            self._synchronize()
        self._clock.end_step(watched=due and self._in_flight)
        if not due:
            return {}
        before = self._mixture
        with self._clock.probing():
            observed = self._observe(step)
        if isinstance(observed, Alignments | TargetAlignments):
            observed = replace(observed, general_loss=self._general_loss)
        self._mixture = self._agreed(self._scheduler.update(before, observed))
        return self._told(before, observed)

    def close(self) -> None:
        """Stop reading ahead, and let go of the model."""
        self._batches.close()
        if self._measurement is not None:
            self._measurement.close()

    def first_weights(self) -> dict[str, Any]:
        """Return the averaged weights that a run begins with, as an ``update`` tells them."""
        weights = self._records.weights(self._mixture, self.epochs)
        return {name: by for name, by in weights.items() if name.endswith("averaged_weights")}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to continue; equal on every rank."""
        mixture = self._mixture
        return {
            **self._identity,
            "step": self.step,
            "cursors": torch.from_numpy(self._batches.state.cursors.copy()),
            "weights": torch.from_numpy(mixture.weights.copy()),
            "averaged_weights": torch.from_numpy(mixture.averaged_weights.copy()),
            "num_updates": mixture.num_updates,
            "num_skipped": mixture.num_skipped,
            "memory": {
                name: torch.from_numpy(array.copy()) for name, array in mixture.memory.items()
            },
            "general_loss": self._general_loss,
            "observer": self._observed_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``, on any number of ranks.

        Raises:
            ResumeError: If it was saved with other domains, sizes, targets, batch size or seed.
        """
        for key, expected in self._identity.items():
            if (found := state.get(key)) != expected:
                raise ResumeError(
                    f"checkpoint: {key}: expected {expected!r} as in this run, found {found!r}"
                )
        self._batches.seek(SamplerState(step=state["step"], cursors=state["cursors"].numpy()))
        self._mixture = MixtureState(
            weights=state["weights"].numpy(),
            averaged_weights=state["averaged_weights"].numpy(),
            num_updates=state["num_updates"],
            num_skipped=state["num_skipped"],
            memory={name: tensor.numpy() for name, tensor in state["memory"].items()},
        )
        self._general_loss = state["general_loss"]
        if isinstance(self._needs, LossNeeds):
            self._losses.load_state_dict(state["observer"])
        if self._measurement is not None:
            self._measurement.close()
            self._measurement.load_state_dict(state["observer"])

    @property
    def _num_measured(self) -> int:
        """The number of the next update, counting those that were left out."""
        return self._mixture.num_updates + self._mixture.num_skipped

    def _prepare(self, indices: BatchIndices) -> None:
        """Get ready for the update that follows this batch, if one does. Collective then."""
        if self._measurement is not None and self._is_update(indices.step):
            batch = TrainedBatch(indices.global_domains, indices.rows, self._sequence_length)
            with self._clock.probing():
                self._measurement.prepare(self._num_measured, batch)
        self._clock.begin_step()

    def _observe(self, step: int) -> Observed:
        """Return what the rule observes after an optimizer step. Collective if it is measured."""
        if self._measurement is not None:
            return self._measurement.measure(self._num_measured)
        return self._losses.take(step) if isinstance(self._needs, LossNeeds) else StepNumber(step)

    def _observed_state(self) -> dict[str, Any]:
        if self._measurement is not None:
            return self._measurement.state_dict()
        return self._losses.state_dict() if isinstance(self._needs, LossNeeds) else {}

    def _is_update(self, step: int) -> bool:
        return self._needs is not None and step % self._interval == 0

    def _expected(self, step: int) -> FloatArray:
        """Return the weights that may hold after the update that follows a step. Not collective.

        Of a rule that goes by the step alone they are known; others move them little by little.
        """
        if not isinstance(self._needs, StepNeeds):
            return self.weights
        return self._scheduler.update(self._mixture, StepNumber(step)).averaged_weights

    def _agreed(self, mixture: MixtureState) -> MixtureState:
        """Let the first rank's bits win: processors may round differently. Collective: once."""
        arrays = [mixture.weights, mixture.averaged_weights, *mixture.memory.values()]
        flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
        ends = np.cumsum([array.size for array in arrays])
        parts = np.split(self._collective.of_first_rank(flat), ends[:-1])
        agreed = [
            part.reshape(array.shape).astype(array.dtype)
            for part, array in zip(parts, arrays, strict=True)
        ]
        return replace(
            mixture,
            weights=agreed[0],
            averaged_weights=agreed[1],
            memory=dict(zip(mixture.memory, agreed[2:], strict=True)),
        )

    def _told(self, before: MixtureState, observed: Observed) -> Metrics:
        if self._mixture.num_skipped > before.num_skipped:
            return {"event": self._records.skipped(observed, self._mixture)}
        overhead = self._clock.take()
        weights = self._records.weights(self._mixture, self.epochs)
        cost = {
            "predicted_overhead": self._predicted_overhead,
            "observed_overhead": overhead.share,
            "probe_s": overhead.probe_s,
        }
        match observed:
            case Alignments() | TargetAlignments():
                told = self._records.measurement(observed, self._mixture)
                event = self._records.guard(before, self._mixture, observed.general_loss)
                return {"update": {**told, **weights, **cost}, **event}
            case StepNumber() if np.array_equal(
                before.averaged_weights, self._mixture.averaged_weights
            ):
                return {}  # a schedule that is looked at each step, in the middle of a stage
            case _:
                return {"update": weights}


def _synchronize(device: torch.device) -> None:
    """Let an accelerator finish what it was given, so that a clock sees it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
