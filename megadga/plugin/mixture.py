"""The mixture plugin for DeepSpeed loops: batches sampled by domain, and mixture updates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import SequenceSet, trains_all_tokens
from megadga.data.exhaustion import ended_first_epochs
from megadga.data.order import WindowOrder
from megadga.data.sampler import SamplerState
from megadga.errors import ConfigError, ResumeError
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    LossNeeds,
    MixtureState,
    Needs,
    Observed,
    Scheduler,
    StepNeeds,
    StepNumber,
    TargetAlignments,
    TargetNeeds,
    skip_update,
)
from megadga.mixers.by_hand import continue_from, set_weights
from megadga.mixers.carrying import MixtureChange, carried_state
from megadga.mixers.probing import DIRECTIONAL, InFlight, Probe
from megadga.mixers.updates import UpdateSteps
from megadga.plugin.batches import Batch, BatchIndices, BatchLoader, Sampling
from megadga.plugin.observing import (
    ObservedWindows,
    TrainingLosses,
    as_target_sets,
    build_measurement,
)
from megadga.plugin.protocol import Metrics
from megadga.plugin.records import ProbeTimer, UpdateRecords
from megadga.plugin.revising import mixture_of, revised_state, state_of
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine
from megadga.probes.gradients import trained_matrices
from megadga.probes.loss import Loss, mean_loss
from megadga.probes.overhead import num_measured, update_cost
from megadga.probes.sequences import TrainedBatch


@final
class MixturePlugin:
    """Online data mixing for any DeepSpeed loop (Dynamic Gradient Alignment, arXiv 2410.02498).

    In each optimizer step, call ``next_batch()`` (or ``next_indices()``, and read the windows
    yourself), train on its micro-batches, then call ``after_step(step)`` on every rank. Every
    ``interval`` steps this measures the domains' alignments and updates the mixture. Save
    ``state_dict()`` with ``engine.save_checkpoint(client_state=...)``.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0-3; its ``train_batch_size()`` is ``B``.
        domains: The ``K`` training domains, with the same sequence length: streams, of text or
            dialogues, or sets of examples or dialogues. Of all but streams of text the tokens may
            be padded and marked (see ``specific``), and ``sequence_weights`` of a batch's indices
            say what each sequence counts for.
        specific: The specific set, or several in the order of the scheduler's targets; None only
            for a scheduler that does not use one. If it is padded (``Examples``), the module
            receives ``PADDING`` among its tokens while alignments are measured, and only then; of
            dialogues (``open_chat``) also ids marked as inputs alone: ``inputs_and_targets`` is
            for both.
        scheduler: The algorithm that updates the weights.
        sampling: How windows are sampled.
        interval: ``T_r``, optimizer steps between updates, at least 1; or `UpdateSteps`.
        probe: How alignments are measured, and on how many sequences per update.
        loss: Computes the mean loss of tokens ``(b, S + 1)`` through a module, over the targets
            that are not padding (see ``Loss``); by default the module's output, or its mean if
            the module returns one loss per token.

    If the scheduler measures alignments, construction is collective: a few sequences pass through
    the module, so that unsupported modules are rejected before training.

    With the in-flight probe (``InFlight``), domains must be streams of text, the tensor passed to
    ``engine.backward`` must be the mean loss over the targets of a micro-batch, up to a constant
    factor, and requesting the batch of an update step is collective, as the direction is measured
    at that point.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on this engine, or this
            module or its loss is unsupported.
        ValueError: If the arguments are inconsistent.
    """

    name = "mixture"

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[SequenceSet],
        specific: SequenceSet | Sequence[SequenceSet] | None,
        scheduler: Scheduler,
        *,
        sampling: Sampling,
        interval: int | UpdateSteps = 100,
        probe: Probe = DIRECTIONAL,
        loss: Loss = mean_loss,
    ) -> None:
        self.names = tuple(domain.name for domain in domains)
        self._scheduler = scheduler
        self._updates = interval if isinstance(interval, UpdateSteps) else UpdateSteps(interval)
        self._collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self._batches = BatchLoader(engine, domains, sampling, collective=self._collective)
        self._mixture = self._broadcast_state(scheduler.init())
        if self._mixture.weights.shape != self._batches.sizes.shape:
            raise ValueError(
                f"scheduler: expected weights over {len(domains)} domains, "
                f"found shape {self._mixture.weights.shape}"
            )
        targets = as_target_sets(specific)
        # A saved state must match this, or its cursors would refer to different sequences.
        self._identity = _identify(
            domains,
            self.order,
            global_batch_size=engine.train_batch_size(),
            seed=sampling.seed,
            targets=targets if isinstance(scheduler.observes, TargetNeeds) else None,
        )
        self._sequence_length = domains[0].sequence_length
        self._drawn: BatchIndices | None = None
        self._clock = ProbeTimer(time.perf_counter)
        self._in_flight = isinstance(probe, InFlight)
        if self._in_flight:
            _check_streams(domains)
        self._synchronize = partial(_synchronize, engine.device)
        self._needs = scheduler.observes
        losses = self._needs if isinstance(self._needs, LossNeeds) else LossNeeds()
        self._losses = TrainingLosses(
            len(domains), reference=losses.reference, output_norms=losses.output_norms
        )
        self._windows: ObservedWindows | None = None
        if sampling.resampled_uniformly is not None:
            _check_observes_norms(scheduler)
            self._windows = ObservedWindows(self._batches.sizes)
        self._general_loss: float | None = None
        self._frozen = False
        self._measurement = build_measurement(
            self._needs,
            engine,
            domains,
            targets,
            probe=probe,
            loss=loss,
            seed=sampling.seed,
            numbers=np.append(self._batches.order.numbers, self._batches.order.reserved),
        )
        self._update_cost = _predict_cost(probe, self._needs, engine, num_domains=len(domains))
        self._records = UpdateRecords(
            self.names, self._needs, tuple(target.name for target in targets)
        )

    @property
    def step(self) -> int:
        """Number of optimizer steps whose batches have been returned."""
        return self._batches.state.step

    @property
    def weights(self) -> FloatArray:
        """The averaged weights that batches are sampled from, shape ``(K,)``."""
        return self._mixture.averaged_weights

    @property
    def weighted(self) -> tuple[str, ...]:
        """Names of what the scheduler weights: the domains, or the basis distributions."""
        return self._records.measured

    @property
    def rule_weights(self) -> FloatArray:
        """Averaged weights of what the scheduler weights, shape ``(len(weighted),)``."""
        return self._records.averaged(self._mixture)

    @property
    def observes_norms(self) -> bool:
        """Whether ``observe_losses`` needs the norms of the loss's gradient at the output."""
        return isinstance(self._needs, LossNeeds) and self._needs.output_norms

    @property
    def frozen(self) -> bool:
        """Whether updates are skipped, as ``freeze`` has asked for."""
        return self._frozen

    @property
    def cursors(self) -> IntArray:
        """Windows drawn from each domain, over all epochs, shape ``(K,)``."""
        return self._batches.state.cursors

    @property
    def epochs(self) -> FloatArray:
        """Number of epochs of each domain, shape ``(K,)``."""
        return self._batches.epochs

    @property
    def epochs_by_name(self) -> dict[str, float]:
        """Number of epochs of each domain, by name."""
        return dict(zip(self.names, self.epochs.tolist(), strict=True))

    @property
    def windows_by_name(self) -> dict[str, int]:
        """Number of windows of each domain, by name: those of an epoch."""
        return dict(zip(self.names, self._batches.sizes.tolist(), strict=True))

    @property
    def ended(self) -> tuple[str, ...]:
        """Names of the domains whose first epoch the last batch has ended."""
        if self._drawn is None:
            return ()
        drawn = self._drawn.global_domains
        domains: list[int] = ended_first_epochs(self.order, self.cursors, drawn).tolist()
        return tuple(self.names[domain] for domain in domains)

    @property
    def probed_s(self) -> float:
        """Seconds that were spent on measuring alignments so far."""
        return 0.0 if self._measurement is None else self._clock.total_s

    def next_batch(self, device: torch.device | None = None) -> Batch:
        """Return this rank's tokens of the next optimizer step, and advance.

        Args:
            device: Where they are put; None: the engine's device.
        """
        batch = self._batches.next_batch(
            self.weights, self._is_update, self._predict_weights, device
        )
        self._prepare(batch.indices)
        return batch

    def next_indices(self) -> BatchIndices:
        """Return the windows of the next optimizer step without reading them, and advance."""
        indices = self._batches.next_indices(self.weights)
        self._prepare(indices)
        return indices

    def observe_losses(
        self,
        domains: IntArray,
        losses: FloatArray,
        reference_losses: FloatArray | None = None,
        num_targets: IntArray | None = None,
        output_norms: FloatArray | None = None,
    ) -> None:
        """Report the training losses of an optimizer step, before ``after_step``. Not collective.

        Required in every step by schedulers that use training losses; ignored by others.

        Args:
            domains: Domain of each sequence, as ``indices.global_domains``, shape ``(B,)``.
            losses: Mean loss of each, nats per token, shape ``(B,)``. Of the whole global batch,
                and equal on every rank.
            reference_losses: A reference model's losses on the same sequences, for a scheduler
                that compares the two (``Doremi``); ignored by others.
            num_targets: Targets of each, as ``indices.global_targets``, by which a domain's mean
                is weighted, shape ``(B,)``; None: the same number.
            output_norms: Norm of the loss's gradient at the output of each
                (``sequence_norms``), for a scheduler that goes by it (``GradientNorm``), shape
                ``(B,)``; ignored by others.

        Raises:
            ValueError: If the shapes differ, a domain index is out of range, required reference
                losses or norms are missing, or windows are resampled and these are not the domains
                of the last batch.
        """
        if not isinstance(self._needs, LossNeeds):
            return
        self._losses.add(domains, losses, reference_losses, num_targets, output_norms)
        if self._windows is not None and output_norms is not None:
            if self._drawn is None or not np.array_equal(domains, self._drawn.global_domains):
                raise ValueError(
                    "observe_losses: expected the domains of the last batch, in its order, "
                    "found others"
                )
            self._windows.add(domains, self._drawn.global_sequences, output_norms)

    def observe_general(self, loss: float) -> None:
        """Report the domains' mean validation loss after an evaluation. Not collective.

        Required by `general_guard`; the latest value is used until the next one.

        Args:
            loss: Nats per token, equal on every rank.
        """
        self._general_loss = loss

    def after_step(self, step: int) -> Metrics:
        """Update the mixture if one is due. Collective: call it on every rank.

        Args:
            step: Optimizer steps completed so far, equal to ``self.step``.

        Returns:
            An ``update`` record (see ``UpdateRecords``), with an ``event`` if a guard was switched
            on or off; or an ``event`` if the update was skipped; or nothing.

        Raises:
            ValueError: If ``step`` does not match the batches returned, or the scheduler uses
                losses and none were reported.
        """
        if step != self.step:
            raise ValueError(
                f"after_step: expected step {self.step}, the batches handed out, found {step}"
            )
        due = self._is_update(step)
        measures = due and not self._frozen
        if measures and self._measurement is not None:
            self._synchronize()
        self._clock.end_step(in_flight=measures and self._in_flight)
        if not due:
            return {}
        if self._frozen:
            return self._skip_frozen(step)
        before = self._mixture
        with self._clock.probing():
            observed = self._observe(step)
        if isinstance(observed, Alignments | TargetAlignments):
            observed = replace(
                observed, general_loss=self._general_loss, step=step, epochs=self.epochs
            )
        self._mixture = self._broadcast_state(self._scheduler.update(before, observed))
        if self._windows is not None:
            self._batches.resample(self._windows.renew())
        return self._update_metrics(before, observed)

    def set_by_hand(self, weights: Mapping[str, float]) -> Metrics:
        """Give some domains other averaged weights, from the next batch on. Collective.

        Call it after ``after_step`` and before the next batch. The others share the rest in
        proportion to what they have, and the scheduler goes on from these weights
        (``megadga.mixers.by_hand``).

        Args:
            weights: By name, at least one; of basis distributions, if the scheduler weights these.
                Equal on every rank.

        Returns:
            An ``update`` record with the new weights.

        Raises:
            ConfigError: If they are no weights, or the scheduler would replace them at once, as a
                schedule does that is not frozen; on every rank, and nothing has changed.
            ExhaustedError: If the next batch cannot be drawn from them; likewise.
        """
        if isinstance(self._needs, StepNeeds) and not self._frozen:
            raise ConfigError(
                "expected a mixture that is frozen, as the schedule says the weights of every "
                "step, found one that is not"
            )
        wanted = set_weights(self.weighted, self.rule_weights, weights)
        mixture = self._broadcast_state(continue_from(self._scheduler, self._mixture, wanted))
        self._batches.restart(mixture.averaged_weights)
        self._mixture = mixture
        return {"update": self._records.weights(mixture, self.epochs)}

    def freeze(self) -> None:
        """Skip updates from now on, so that the weights stay. Not collective: on every rank."""
        self._frozen = True

    def release(self) -> None:
        """Go on with updates, from the weights as they are. Not collective: on every rank."""
        self._frozen = False

    def close(self) -> None:
        """Stop prefetching and remove all hooks from the model."""
        self._batches.close()
        if self._measurement is not None:
            self._measurement.close()

    def initial_weights(self) -> dict[str, Any]:
        """Return the initial averaged weights, in the format of an ``update`` record."""
        weights = self._records.weights(self._mixture, self.epochs)
        return {name: by for name, by in weights.items() if name.endswith("averaged_weights")}

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint; equal on every rank."""
        return {
            **self._identity,
            "step": self.step,
            "cursors": torch.from_numpy(self._batches.state.cursors.copy()),
            **state_of(self._mixture),
            "general_loss": self._general_loss,
            "frozen": self._frozen,
            "observer": self._observer_state(),
            "window_norms": None if self._windows is None else self._windows.state_dict(),
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
        if self._windows is not None and (saved := state.get("window_norms")) is not None:
            self._windows.load_state_dict(saved)
            self._batches.resample(self._windows.norms)
        mixture = mixture_of(state)
        # Of what the rule did not do before, such as a guard: its first memory.
        memory = {**self._scheduler.init().memory, **mixture.memory}
        self._mixture = replace(mixture, memory=memory)
        self._general_loss = state["general_loss"]
        self._frozen = bool(state.get("frozen", False))
        if isinstance(self._needs, LossNeeds):
            self._losses.load_state_dict(state["observer"])
        if self._measurement is not None:
            self._measurement.close()
            self._measurement.load_state_dict(state["observer"])

    def load_revised_state_dict(
        self,
        state: Mapping[str, Any],
        change: MixtureChange,
        *,
        cursors: IntArray,
        same_measurement: bool,
    ) -> None:
        """Continue from a state of other domains, specific sets or another rule. Collective.

        Args:
            state: Of the plugin before.
            change: From that to this.
            cursors: Windows drawn from each domain of this plugin, whose ``sampling.order`` goes
                with them, shape ``(K,)``.
            same_measurement: Whether what was observed until now has a meaning.
        """
        carried = carried_state(self._scheduler, mixture_of(state), change)
        self.load_state_dict(
            revised_state(
                state,
                self.state_dict(),
                self._broadcast_state(carried),
                change,
                cursors=cursors,
                same_measurement=same_measurement,
            )
        )

    def may_be_revised(self, step: int) -> bool:
        """Tell whether the mixture is updated after an optimizer step, or never moves."""
        return self._needs is None or self._updates.is_update(step)

    @property
    def mixture(self) -> MixtureState:
        """The state of the rule."""
        return self._mixture

    @property
    def order(self) -> WindowOrder:
        """The order of each domain's windows."""
        return self._batches.order

    @property
    def _num_measured(self) -> int:
        """Index of the next update, skipped ones counted."""
        return self._mixture.num_updates + self._mixture.num_skipped

    def _prepare(self, indices: BatchIndices) -> None:
        """Prepare the update after this batch, if one is due; then collective."""
        self._drawn = indices
        due = self._is_update(indices.step) and not self._frozen
        if self._measurement is not None and due:
            batch = TrainedBatch(indices.global_domains, indices.rows, self._sequence_length)
            with self._clock.probing():
                self._measurement.prepare(self._num_measured, batch)
        self._clock.begin_step()

    def _observe(self, step: int) -> Observed:
        """Return the observation for the scheduler. Collective if alignments are measured."""
        if self._measurement is not None:
            return self._measurement.measure(self._num_measured)
        return self._losses.take(step) if isinstance(self._needs, LossNeeds) else StepNumber(step)

    def _skip_frozen(self, step: int) -> Metrics:
        """Count an update that is due and skipped, and drop what was observed for it."""
        if isinstance(self._needs, LossNeeds):
            self._losses.take(step)
        self._mixture = skip_update(self._mixture)
        if isinstance(self._needs, StepNeeds):  # due at each step: the log would have no end
            return {}
        skipped = {"reason": "frozen by hand", "num_skipped": self._mixture.num_skipped}
        return {"event": {"event": "update_skipped", **skipped}}

    def _observer_state(self) -> dict[str, Any]:
        if self._measurement is not None:
            return self._measurement.state_dict()
        return self._losses.state_dict() if isinstance(self._needs, LossNeeds) else {}

    def _is_update(self, step: int) -> bool:
        return self._needs is not None and self._updates.is_update(step)

    def _predict_weights(self, step: int) -> FloatArray:
        """Predict the weights after the update that follows a step. Not collective.

        Exact for schedulers that depend on the step only; for others the current weights.
        """
        if not isinstance(self._needs, StepNeeds) or self._frozen:
            return self.weights
        return self._scheduler.update(self._mixture, StepNumber(step)).averaged_weights

    def _broadcast_state(self, mixture: MixtureState) -> MixtureState:
        """Broadcast rank 0's state, as processors may round differently. One collective."""
        arrays = [mixture.weights, mixture.averaged_weights, *mixture.memory.values()]
        flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
        ends = np.cumsum([array.size for array in arrays])
        parts = np.split(self._collective.of_first_rank(flat), ends[:-1])
        received = [
            part.reshape(array.shape).astype(array.dtype)
            for part, array in zip(parts, arrays, strict=True)
        ]
        return replace(
            mixture,
            weights=received[0],
            averaged_weights=received[1],
            memory=dict(zip(mixture.memory, received[2:], strict=True)),
        )

    def _update_metrics(self, before: MixtureState, observed: Observed) -> Metrics:
        if self._mixture.num_skipped > before.num_skipped:
            return {"event": self._records.skipped(observed, self._mixture)}
        overhead = self._clock.take()
        weights = self._records.weights(self._mixture, self.epochs)
        cost = {
            "predicted_overhead": self._update_cost / self._updates.interval_at(self.step),
            "observed_overhead": overhead.share,
            "probe_s": overhead.probe_s,
        }
        match observed:
            case Alignments() | TargetAlignments():
                measured = self._records.measurement(observed, self._mixture)
                event = self._records.guard(before, self._mixture, observed.general_loss)
                return {"update": {**measured, **weights, **cost}, **event}
            case StepNumber() if np.array_equal(
                before.averaged_weights, self._mixture.averaged_weights
            ):
                return {}  # a schedule is evaluated at each step; within a stage nothing changes
            case _:
                return {"update": weights}


def _identify(
    domains: Sequence[SequenceSet],
    order: WindowOrder,
    *,
    global_batch_size: int,
    seed: int,
    targets: Sequence[SequenceSet] | None,
) -> dict[str, Any]:
    """Return what the plugin of a saved state must equal; ``targets``: if the rule has them."""
    identity: dict[str, Any] = {
        "domains": [domain.name for domain in domains],
        "windows": order.sizes.tolist(),
        "global_batch_size": global_batch_size,
        "seed": seed,
        "order": None if order.is_initial else order.digest,
    }
    if targets is not None:
        identity["targets"] = [target.name for target in targets]
    return identity


def _predict_cost(probe: Probe, needs: Needs | None, engine: Engine, *, num_domains: int) -> float:
    """Return the predicted cost of an update, in steps of training; 0 without alignments."""
    if not isinstance(needs, AlignmentNeeds | TargetNeeds):
        return 0.0
    return update_cost(
        probe,
        num_domains=num_measured(needs, num_domains),
        global_batch_size=engine.train_batch_size(),
        needs=needs,
        matrices=trained_matrices(engine.module),
    )


def _check_observes_norms(scheduler: Scheduler) -> None:
    """Refuse a scheduler whose measurements have no norms that windows could be drawn by."""
    needs = scheduler.observes
    if not isinstance(needs, LossNeeds) or not needs.output_norms:
        raise ValueError(
            "sampling.resampled_uniformly: expected a scheduler that observes output_norms, "
            f"found {type(scheduler).__name__}"
        )


def _check_streams(domains: Sequence[SequenceSet]) -> None:
    """Refuse domains whose sequences do not all have the same number of targets."""
    others = [domain.name for domain in domains if not trains_all_tokens(domain)]
    if others:
        raise ValueError(
            "in-flight probe: expected domains that are streams, every sequence with S targets, "
            f"found {others[0]!r}, which is padded or masked; measure with probe type directional"
        )


def _synchronize(device: torch.device) -> None:
    """Wait for the accelerator to finish its queued work, for timing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
