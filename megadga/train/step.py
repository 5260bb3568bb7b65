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


@final
class MeanLossStep:
    """Trains on the mean loss; ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        step_sum: Gathers per-sequence values over the ranks.
    """

    def __init__(self, engine: Engine, step_sum: StepAllReduce) -> None:
        self._engine = engine
        self._step_sum = step_sum

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        own = torch.stack([self._micro_step(tokens) for tokens in batch.tokens])
        losses, *others = self._step_sum(batch, own, *extra)
        return StepLosses(losses, tuple(others))

    def _micro_step(self, tokens: Tensor) -> Tensor:
        """Train on one micro-batch; return the mean loss of each sequence, shape ``(b,)``."""
        losses = self._engine(tokens)
        self._engine.backward(losses.mean())
        self._engine.step()
        return losses.detach().mean(dim=-1)


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
    """

    def __init__(self, engine: Engine, reweighting: Reweighting, step_sum: StepAllReduce) -> None:
        self._engine = engine
        self._reweighting = reweighting
        self._step_sum = step_sum
        self._mean = MeanLossStep(engine, step_sum)

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
            losses = self._engine(tokens).mean(dim=-1)
            self._backward_and_step(losses, weights[rows])
            own.append(losses.detach())
        everyone, *others = self._step_sum(batch, torch.stack(own), *extra)
        return StepLosses(everyone, tuple(others), weights)

    def _single_micro_batch(self, batch: Batch, *extra: Tensor) -> StepLosses:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        own = self._engine(tokens).mean(dim=-1)
        losses, *others = self._step_sum(batch, own.detach()[None], *extra)
        weights = self._weights(losses, batch.step)
        self._backward_and_step(own, weights[rows])
        return StepLosses(losses, tuple(others), weights)

    def _backward_and_step(self, losses: Tensor, weights: FloatArray) -> None:
        """Run backward on a micro-batch's weighted mean loss, and the engine's step."""
        self._engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())
        self._engine.step()

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


ObserveLosses = Callable[[IntArray, FloatArray, FloatArray | None], None]
"""Called after each step with the domain and the mean loss of every sequence of the global batch,
and a reference model's losses if there is one; all of shape ``(B,)``, equal on every rank."""


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
    """

    def __init__(
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
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._clock = clock
        self._seed = seed
        self._observe_losses = observe_losses
        self._reference = reference
        self._weighted = reweighting is not None
        self._passes: TrainStep = (
            MeanLossStep(engine, step_sum)
            if reweighting is None
            else WeightedLossStep(engine, reweighting, step_sum)
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
