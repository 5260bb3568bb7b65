"""One optimizer step: forward and backward passes, and losses per domain."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.loss_reweight import LossReweighting
from megadga.plugin import Batch, Metrics
from megadga.probes.discarding import discard_update
from megadga.probes.engine import Engine
from megadga.train.ranks import StepAllReduce

TokenLosses = Callable[[Tensor], Tensor]
"""Computes a model's losses ``(b, S)`` of tokens ``(b, S + 1)`` without gradients."""


@dataclass(frozen=True, eq=False)
class StepLosses:
    """Losses of one training step.

    Attributes:
        losses: Mean loss of each sequence of the global batch, nats per token, shape ``(B,)``.
        extra: Additional values gathered with the losses, each of the same shape.
        weights: Weight of each sequence in the training loss, with mean 1, same shape; None: equal
            weights.
    """

    losses: FloatArray
    extra: tuple[FloatArray, ...] = ()
    weights: FloatArray | None = None


class TrainStep(Protocol):
    """Executes one optimizer step on a batch."""

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences.
            extra: Additional values per sequence, each of shape ``(accumulation, micro batch)``,
                gathered together with the losses.
        """
        ...


@dataclass(frozen=True)
class Reweighting:
    """Weighting of sequences by their losses.

    Attributes:
        rule: Computes weights from the global batch's losses.
        losses: Computes losses without gradients, for steps of several micro-batches.
    """

    rule: LossReweighting
    losses: TokenLosses


AcceptUpdate = Callable[[Batch, FloatArray], bool]
"""Decides, by the losses of the global batch, shape ``(B,)``, whether an update is applied; called
once for each step, with equal results on every rank."""


@final
class WindowEnd:
    """Ends the accumulation window of a step, with or without an update.

    Args:
        engine: A DeepSpeed engine.
        step_sum: Gathers per-sequence values over the ranks.
        accepts: Decides whether the update is applied, which needs all losses before it; None: it
            always is, and they are gathered after it.
    """

    def __init__(
        self, engine: Engine, step_sum: StepAllReduce, accepts: AcceptUpdate | None
    ) -> None:
        self._engine = engine
        self._step_sum = step_sum
        self._accepts = accepts

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """End the window; return values of all ranks as ``StepAllReduce`` does. Collective.

        Args:
            batch: The batch.
            own: Losses of this rank's sequences, and additional values.
        """
        if self._accepts is None:
            self._engine.step()
            return self._step_sum(batch, *own)
        gathered = self._step_sum(batch, *own)
        self.end(batch, gathered[0])
        return gathered

    def end(self, batch: Batch, losses: FloatArray) -> None:
        """End the window with losses that have been gathered already. Collective."""
        if self._accepts is None or self._accepts(batch, losses):
            self._engine.step()
        else:
            discard_update(self._engine)


@final
class MeanLossStep:
    """Trains on the mean loss; ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        step_sum: Gathers per-sequence values over the ranks.
        accepts: Decides whether an update is applied; None: all are.
    """

    def __init__(
        self, engine: Engine, step_sum: StepAllReduce, accepts: AcceptUpdate | None = None
    ) -> None:
        self._engine = engine
        self._end_window = WindowEnd(engine, step_sum, accepts)

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        own: list[Tensor] = []
        for tokens in batch.tokens:
            if own:
                self._engine.step()  # of the micro-batch before
            losses = self._engine(tokens)
            self._engine.backward(losses.mean())
            own.append(losses.detach().mean(dim=-1))
        everyone, *others = self._end_window(batch, torch.stack(own), *extra)
        return StepLosses(everyone, tuple(others))


@final
class WeightedLossStep:
    """Trains on a weighted mean, with weights computed from the losses of the global batch.

    With one micro-batch per step, the weights are computed between forward and backward pass. With
    several, an additional forward pass over all of them without gradients and dropout comes first.
    If a loss is not finite, all weights are equal. ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        reweighting: Computes the weights.
        step_sum: Gathers per-sequence values over the ranks.
        accepts: Decides whether an update is applied; None: all are.
    """

    def __init__(
        self,
        engine: Engine,
        reweighting: Reweighting,
        step_sum: StepAllReduce,
        accepts: AcceptUpdate | None = None,
    ) -> None:
        self._engine = engine
        self._reweighting = reweighting
        self._step_sum = step_sum
        self._end_window = WindowEnd(engine, step_sum, accepts)
        self._mean = MeanLossStep(engine, step_sum, accepts)

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        if batch.step <= self._reweighting.rule.warmup:
            return self._mean(batch, *extra)
        if len(batch.tokens) == 1:
            return self._single_micro_batch(batch, *extra)
        model = self._reweighting.losses
        ahead = torch.stack([model(tokens).mean(dim=-1) for tokens in batch.tokens])
        (known,) = self._step_sum(batch, ahead)
        weights = self._weights(known, batch.step)
        own: list[Tensor] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            if own:
                self._engine.step()  # of the micro-batch before
            losses = self._engine(tokens).mean(dim=-1)
            self._backward(losses, weights[rows])
            own.append(losses.detach())
        everyone, *others = self._end_window(batch, torch.stack(own), *extra)
        return StepLosses(everyone, tuple(others), weights)

    def _single_micro_batch(self, batch: Batch, *extra: Tensor) -> StepLosses:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        own = self._engine(tokens).mean(dim=-1)
        losses, *others = self._step_sum(batch, own.detach()[None], *extra)
        weights = self._weights(losses, batch.step)
        self._backward(own, weights[rows])
        self._end_window.end(batch, losses)
        return StepLosses(losses, tuple(others), weights)

    def _backward(self, losses: Tensor, weights: FloatArray) -> None:
        """Run backward on a micro-batch's weighted mean loss."""
        self._engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


ObserveLosses = Callable[[IntArray, FloatArray, FloatArray | None], None]
"""Called after each step with the domain and the mean loss of every sequence of the global batch,
and a reference model's losses if there is one; all of shape ``(B,)``, equal on every rank."""


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


@final
class Trainer:
    """Trains a module that returns one loss per token, on batches without padding.

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
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._clock = clock
        self._seed = seed
        self._observe_losses = observe_losses
        self._watching = watching
        self._reference = reference
        self._weighted = reweighting is not None
        self._passes: TrainStep = (
            MeanLossStep(engine, step_sum, watching.accepts)
            if reweighting is None
            else WeightedLossStep(engine, reweighting, step_sum, watching.accepts)
        )

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences, in micro-batches of the size that the engine expects.

        Returns:
            A ``train`` record: mean loss (nats per token), the learning rate, the gradient norm
            before clipping (NaN if it is not finite), tokens per second over all ranks, and per
            domain in the batch the number of sequences, their mean loss, and a reference model's
            mean loss if there is one. With reweighting, also ``effective_sequences``: the number
            of equally weighted sequences whose mean would have the same variance. Logged losses
            are never weighted.
        """
        started = self._clock()
        torch.manual_seed(self._seed(batch.step))
        learning_rate = self._engine.get_lr()[0]
        extra = () if self._reference is None else (_sequence_means(self._reference, batch),)
        trained = self._passes(batch, *extra)
        domains, losses = batch.indices.global_domains, trained.losses
        reference_losses = trained.extra[0] if extra else None
        if self._observe_losses is not None:
            self._observe_losses(domains, losses, reference_losses)
        if self._watching.observer is not None:
            self._watching.observer.observe(batch, losses)
        num_tokens = losses.size * (batch.tokens.shape[-1] - 1)
        record: dict[str, Any] = {
            "loss": float(losses.mean()),
            "learning_rate": learning_rate,
            "grad_norm": self._gradient_norm(),
            "tokens_per_s": num_tokens / (self._clock() - started),
            "sequences_by_domain": self._counts(domains),
            "loss_by_domain": self._means(losses, domains),
        }
        if reference_losses is not None:
            record["reference_loss_by_domain"] = self._means(reference_losses, domains)
        if self._weighted:
            record["effective_sequences"] = _effective(trained.weights, losses.size)
        return {"train": record}

    def _gradient_norm(self) -> float | None:
        """Return the norm before clipping; NaN where DeepSpeed returns -1 (not finite)."""
        norm = self._engine.get_global_grad_norm()
        if norm is None:
            return None
        return float(norm) if norm >= 0.0 else math.nan

    def _counts(self, domains: IntArray) -> dict[str, int]:
        """Return the number of sequences of each domain in the batch."""
        drawn, counts = np.unique(domains, return_counts=True)
        return dict(zip(self._named(drawn), counts.tolist(), strict=True))

    def _means(self, losses: FloatArray, domains: IntArray) -> dict[str, float]:
        """Return the mean of the losses of each domain in the batch."""
        drawn, places, counts = np.unique(domains, return_inverse=True, return_counts=True)
        means = np.bincount(places, weights=losses) / counts
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


def _effective(weights: FloatArray | None, number: int) -> float:
    if weights is None:
        return float(number)
    return float(weights.sum() ** 2 / (weights**2).sum())


def _sequence_means(losses: TokenLosses, batch: Batch) -> Tensor:
    """Return the mean loss of each of this rank's sequences, ``(accumulation, micro batch)``."""
    return torch.stack([losses(tokens).mean(dim=-1) for tokens in batch.tokens])
