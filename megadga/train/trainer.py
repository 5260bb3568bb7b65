"""One optimizer step, and what it cost by domain.

Knows an engine and a batch; not where batches come from.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.plugin import Batch, Metrics
from megadga.train.passes import (
    MeanPasses,
    Passes,
    Reweighting,
    TokenLosses,
    WeightedPasses,
)
from megadga.train.summing import StepSum
from megadga.zero.engine import Engine

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
        together: StepSum,
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
        self._passes: Passes = (
            MeanPasses(engine, together)
            if reweighting is None
            else WeightedPasses(engine, reweighting, together)
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
