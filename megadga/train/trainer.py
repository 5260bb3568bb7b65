"""Trains: executes optimizer steps, and says what each was, by domain."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.plugin import Batch, Metrics
from megadga.probes.engine import Engine, loss_scale
from megadga.train.ranks import StepAllReduce
from megadga.train.step import (
    AcceptUpdate,
    MeanLossStep,
    Reweighting,
    StepLosses,
    TokenLosses,
    TrainStep,
    WeightedLossStep,
    WindowEnd,
    batch_means,
    with_planned,
)
from megadga.train.timing import StepTimer

ObserveLosses = Callable[
    [IntArray, FloatArray, FloatArray | None, IntArray | None, FloatArray | None], None
]
"""Called after each step with the domain and the mean loss of every sequence of the global batch,
a reference model's losses if there is one, the sequences' numbers of targets if they differ, and
the norms of the loss's gradient at their outputs if these are gathered; all of shape ``(B,)``,
equal on every rank."""


class BatchObserver(Protocol):
    """Takes the losses of each step."""

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Take a step's batch and the mean loss of every sequence of the global batch, ``(B,)``.

        Losses are equal on every rank.
        """
        ...


@dataclass(frozen=True)
class Watching:
    """What watches the losses of training.

    Attributes:
        observer: Takes the losses of each step; None: nothing does.
        accepts: Decides whether an update is applied; None: all are.
    """

    observer: BatchObserver | None = None
    accepts: AcceptUpdate | None = None


class StepTrainer(Protocol):
    """Executes optimizer steps; ``Trainer`` and what wraps it."""

    def revise(self, names: Sequence[str], observe_losses: ObserveLosses) -> None:
        """Go on with other domains."""
        ...

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective."""
        ...


@final
class Trainer:
    """Trains a module that returns one loss per token, 0 where there is no target.

    Args:
        engine: A DeepSpeed engine around such a module.
        names: Names of the ``K`` domains.
        step_sum: Gathers per-sequence values over the ranks, once per step.
        clock: Returns a monotonic time in seconds.
        seed: Returns this rank's seed for a step, which dropout draws from: a resumed run goes on
            as if it had not stopped.
        observe_losses: Called with the losses of each step.
        reference: Computes a reference model's losses of every batch.
        reweighting: Weighting of sequences; None: equal weights.
        watching: What watches the losses.
        with_norms: Whether the norms of the losses' gradients at the module's output are observed:
            it is a `Decoder`, which returns them.
    """

    def __init__(  # noqa: PLR0913  (each comes from another part of the assembly)
        self,
        engine: Engine,
        names: Sequence[str],
        *,
        step_sum: StepAllReduce,
        clock: Callable[[], float],
        seed: Callable[[int], int] = lambda step: step,
        observe_losses: ObserveLosses | None = None,
        reference: TokenLosses | None = None,
        reweighting: Reweighting | None = None,
        watching: Watching = Watching(),
        with_norms: bool = False,
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._clock = clock
        self._seed = seed
        self._observe_losses = observe_losses
        self._watching = watching
        self._reference = reference
        self._weighted = reweighting is not None
        self._timer = StepTimer(engine.device)
        end_window = WindowEnd(engine, step_sum, watching.accepts, timer=self._timer)
        self._passes: TrainStep = (
            MeanLossStep(engine, end_window, with_norms=with_norms)
            if reweighting is None
            else WeightedLossStep(engine, reweighting, step_sum, end_window, with_norms=with_norms)
        )

    def revise(self, names: Sequence[str], observe_losses: ObserveLosses) -> None:
        """Go on with other domains.

        Args:
            names: Their names, ``K`` of them.
            observe_losses: Called with the losses of each step from now on.
        """
        self._names, self._observe_losses = tuple(names), observe_losses

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences, in micro-batches of the size that the engine expects.

        Returns:
            A ``train`` record: mean loss (nats per token), the learning rate, the gradient norm
            before clipping (NaN if it is not finite), tokens per second over all ranks, seconds of
            the passes and of the optimizer on this rank, and per domain in the batch the number of
            sequences, their mean loss, and a reference model's mean loss if there is one. In fp16,
            also ``loss_scale``: what the step's losses were multiplied by; where gradients
            overflowed, the norm is infinite, and DeepSpeed has left out the update and lowered the
            scale. With domains of dialogues, also ``targets_by_domain``: the number of targets,
            over which losses are means. With reweighting or an objective, also
            ``effective_sequences``: the number of equally weighted sequences whose mean would have
            the same variance. With an objective, also ``objective_loss``: the weighted mean that
            is trained on, but for weights by losses. All other losses are not weighted.

        Raises:
            LowestScaleError: If gradients overflow in fp16 at the lowest scale; on every rank.
        """
        started = self._clock()
        _seed_generators(self._seed(batch.step), self._engine.device)
        learning_rate = self._engine.get_lr()[0]
        self._timer.begin()
        scaled_by = loss_scale(self._engine)
        extra = () if self._reference is None else (batch_means(self._reference, batch),)
        trained = self._passes(batch, *extra)
        self._observe(batch, trained)
        domains, losses = batch.indices.global_domains, trained.losses
        targets = batch.indices.global_targets
        num_tokens = losses.size * (batch.tokens.shape[-1] - 1)
        record: dict[str, Any] = {
            "loss": float(np.average(losses, weights=targets)),
            "learning_rate": learning_rate,
            "grad_norm": self._gradient_norm(),
            "tokens_per_s": num_tokens / (self._clock() - started),
            "sequences_by_domain": self._counts(domains),
            "loss_by_domain": self._means(losses, domains, targets),
            "seconds": self._timer.seconds(),
        }
        if self._engine.fp16_enabled():
            record["loss_scale"] = scaled_by
        return {"train": record | self._further_values(batch, trained)}

    def _observe(self, batch: Batch, trained: StepLosses) -> None:
        """Tell the mixture, and what watches the losses, of a step's."""
        if self._observe_losses is not None:
            domains, targets = batch.indices.global_domains, batch.indices.global_targets
            reference = trained.extra[0] if trained.extra else None
            self._observe_losses(domains, trained.losses, reference, targets, trained.norms)
        if self._watching.observer is not None:
            self._watching.observer.observe(batch, trained.losses)

    def _further_values(self, batch: Batch, trained: StepLosses) -> dict[str, Any]:
        """Return what a record has of dialogues, a reference model, an objective, reweighting."""
        domains, targets = batch.indices.global_domains, batch.indices.global_targets
        losses, values = trained.losses, dict[str, Any]()
        if targets is not None:
            values["targets_by_domain"] = self._counts(domains, targets)
        if trained.extra:
            values["reference_loss_by_domain"] = self._means(trained.extra[0], domains, targets)
        has_objective = batch.indices.global_factors is not None
        if has_objective:
            equal = np.ones(losses.size)
            values["objective_loss"] = float(np.mean(losses * with_planned(equal, batch)))
        if self._weighted or has_objective:
            weights = np.ones(losses.size) if trained.weights is None else trained.weights
            values["effective_sequences"] = _effective(with_planned(weights, batch))
        return values

    def _gradient_norm(self) -> float | None:
        """Return the norm before clipping; NaN where DeepSpeed returns -1 (not finite)."""
        norm = self._engine.get_global_grad_norm()
        if norm is None:
            return None
        return float(norm) if norm >= 0.0 else math.nan

    def _counts(self, domains: IntArray, targets: IntArray | None = None) -> dict[str, int]:
        """Return the number of sequences, or of targets, of each domain in the batch."""
        drawn, places = np.unique(domains, return_inverse=True)
        counts = np.bincount(places, weights=targets).astype(np.int64)
        return dict(zip(self._named(drawn), counts.tolist(), strict=True))

    def _means(
        self, losses: FloatArray, domains: IntArray, targets: IntArray | None
    ) -> dict[str, float]:
        """Return the mean of the losses of each domain in the batch, over sequences or targets."""
        drawn, places = np.unique(domains, return_inverse=True)
        sums = np.bincount(places, weights=losses if targets is None else losses * targets)
        means = sums / np.bincount(places, weights=targets)
        return dict(zip(self._named(drawn), means.tolist(), strict=True))

    def _named(self, domains: IntArray) -> list[str]:
        return [self._names[domain] for domain in domains.tolist()]


def step_seed(seed: int, step: int, *, rank: int) -> int:
    """Return the seed of what a rank draws in an optimizer step, in ``[0, 2^63)``.

    Args:
        seed: Of the run.
        step: From 1.
        rank: Of the data-parallel group.
    """
    address = f"step/{seed}/{step}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "little") >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of the device that is trained on.

    ``torch.manual_seed`` also remembers the seed for every kind of device that is not in use, with
    the stack that it is called from, which takes a hundred times as long.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _effective(weights: FloatArray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())
