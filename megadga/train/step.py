"""One optimizer step: forward and backward passes, and losses by domain."""

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
"""From tokens ``(b, S + 1)`` to a model's losses without gradients, ``(b, S)``."""


@dataclass(frozen=True, eq=False)
class StepLosses:
    """What a step was trained on.

    Attributes:
        losses: Mean loss of each sequence of the global batch, nats a token, shape ``(B,)``.
        beside: What else was brought together on the way, each of that shape.
        weights: What each counted for, of mean 1, same shape; None: all for the same.
    """

    losses: FloatArray
    beside: tuple[FloatArray, ...] = ()
    weights: FloatArray | None = None


class TrainStep(Protocol):
    """A way to train on a batch."""

    def __call__(self, batch: Batch, *beside: Tensor) -> StepLosses:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences.
            beside: Other numbers of theirs, each of shape ``(accumulation, micro batch)``, which
                travel with the losses.
        """
        ...


@dataclass(frozen=True)
class Reweighting:
    """How sequences come to count by their losses.

    Attributes:
        rule: From the global batch's losses to weights.
        losses: Those of the model as it is, for a step of several micro-batches.
    """

    rule: LossReweighting
    losses: TokenLosses


@final
class MeanLossStep:
    """Trains on the mean loss; ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss a token.
        together: The sum over the ranks.
    """

    def __init__(self, engine: Engine, together: StepAllReduce) -> None:
        self._engine = engine
        self._together = together

    def __call__(self, batch: Batch, *beside: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        own = torch.stack([self._micro_step(tokens) for tokens in batch.tokens])
        losses, *others = self._together(batch, own, *beside)
        return StepLosses(losses, tuple(others))

    def _micro_step(self, tokens: Tensor) -> Tensor:
        """Train on one micro-batch; return the mean loss of each sequence, shape ``(b,)``."""
        losses = self._engine(tokens)
        self._engine.backward(losses.mean())
        self._engine.step()
        return losses.detach().mean(dim=-1)


@final
class WeightedLossStep:
    """Trains on a weighted mean, by weights that follow the losses of the whole global batch.

    With one micro-batch a step, its losses are known between forward and backward pass, and
    nothing is computed twice. With several, a forward pass over all of them comes first, without
    gradients and dropout. If a loss is not finite all sequences count for the same, as without
    weights. ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss a token.
        reweighting: Where the weights come from.
        together: The sum over the ranks.
    """

    def __init__(self, engine: Engine, reweighting: Reweighting, together: StepAllReduce) -> None:
        self._engine = engine
        self._reweighting = reweighting
        self._together = together
        self._mean = MeanLossStep(engine, together)

    def __call__(self, batch: Batch, *beside: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        if batch.step <= self._reweighting.rule.warmup:
            return self._mean(batch, *beside)
        if len(batch.tokens) == 1:
            return self._at_once(batch, *beside)
        model = self._reweighting.losses
        ahead = torch.stack([model(tokens).mean(dim=-1) for tokens in batch.tokens])
        (known,) = self._together(batch, ahead)
        weights = self._weights(known, batch.step)
        own: list[Tensor] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            losses = self._engine(tokens).mean(dim=-1)
            self._descend(losses, weights[rows])
            own.append(losses.detach())
        everyone, *others = self._together(batch, torch.stack(own), *beside)
        return StepLosses(everyone, tuple(others), weights)

    def _at_once(self, batch: Batch, *beside: Tensor) -> StepLosses:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        own = self._engine(tokens).mean(dim=-1)
        losses, *others = self._together(batch, own.detach()[None], *beside)
        weights = self._weights(losses, batch.step)
        self._descend(own, weights[rows])
        return StepLosses(losses, tuple(others), weights)

    def _descend(self, losses: Tensor, weights: FloatArray) -> None:
        """Take the gradient of a micro-batch's weighted mean, and the step if it is due."""
        self._engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())
        self._engine.step()

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


ObserveLosses = Callable[[IntArray, FloatArray, FloatArray | None], None]
"""Takes the domain and the mean loss of every sequence of the global batch after each step, and a
reference model's on the same sequences if there is one; all of shape ``(B,)``, equal on every
rank."""


@final
class Trainer:
    """Trains a module that returns one loss a token, on batches without padding.

    Args:
        engine: A DeepSpeed engine around such a module.
        names: The domains' names, ``K`` of them.
        together: The sum over the ranks; each step makes one.
        clock: Seconds since any fixed moment.
        observe_losses: Is told the losses of each step.
        reference: A reference model, which is shown every batch.
        reweighting: What sequences count for; None: all for the same.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        *,
        together: StepAllReduce,
        clock: Callable[[], float],
        observe_losses: ObserveLosses | None = None,
        reference: TokenLosses | None = None,
        reweighting: Reweighting | None = None,
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._clock = clock
        self._observe_losses = observe_losses
        self._reference = reference
        self._weighted = reweighting is not None
        self._passes: TrainStep = (
            MeanLossStep(engine, together)
            if reweighting is None
            else WeightedLossStep(engine, reweighting, together)
        )

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences, in micro-batches of the size that the engine expects.

        Returns:
            A ``train`` record: mean loss (nats a token), the learning rate that was used, the
            gradient's norm before clipping (NaN if it is not finite), tokens a second over all
            ranks, and of each domain in the batch how many sequences it had and their mean loss,
            and a reference model's if there is one. With weights, ``effective_sequences``: as many
            that counted for the same would have a mean of the same variance. The losses
            themselves are never weighted.
        """
        started = self._clock()
        learning_rate = self._engine.get_lr()[0]
        beside = () if self._reference is None else (_means_alone(self._reference, batch),)
        trained = self._passes(batch, *beside)
        domains, losses = batch.indices.global_domains, trained.losses
        reference_losses = trained.beside[0] if beside else None
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
        """Return the norm before clipping; NaN where DeepSpeed says -1 as it is not finite."""
        norm = self._engine.get_global_grad_norm()
        if norm is None:
            return None
        return float(norm) if norm >= 0.0 else math.nan

    def _counts(self, domains: IntArray) -> dict[str, int]:
        """Return how many sequences each domain in the batch has."""
        drawn, counts = np.unique(domains, return_counts=True)
        return dict(zip(self._named(drawn), counts.tolist(), strict=True))

    def _means(self, losses: FloatArray, domains: IntArray) -> dict[str, float]:
        """Return the mean over each domain's sequences."""
        drawn, places, counts = np.unique(domains, return_inverse=True, return_counts=True)
        means = np.bincount(places, weights=losses) / counts
        return dict(zip(self._named(drawn), means.tolist(), strict=True))

    def _named(self, domains: IntArray) -> list[str]:
        return [self._names[domain] for domain in domains.tolist()]


def _effective(weights: FloatArray | None, number: int) -> float:
    if weights is None:
        return float(number)
    return float(weights.sum() ** 2 / (weights**2).sum())


def _means_alone(losses: TokenLosses, batch: Batch) -> Tensor:
    """Return a model's mean loss of this rank's sequences, ``(accumulation, micro batch)``."""
    return torch.stack([losses(tokens).mean(dim=-1) for tokens in batch.tokens])
