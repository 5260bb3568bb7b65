"""Forward and backward passes of one optimizer step. Knows an engine and losses, and no domain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray
from megadga.mixing.loss_reweight import LossReweighting
from megadga.plugin import Batch
from megadga.train.summing import StepSum
from megadga.zero.engine import Engine

TokenLosses = Callable[[Tensor], Tensor]
"""From tokens ``(b, S + 1)`` to a model's losses without gradients, ``(b, S)``."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a step was trained on.

    Attributes:
        losses: Mean loss of each sequence of the global batch, nats a token, shape ``(B,)``.
        beside: What else was brought together on the way, each of that shape.
        weights: What each counted for, of mean 1, same shape; None: all for the same.
    """

    losses: FloatArray
    beside: tuple[FloatArray, ...] = ()
    weights: FloatArray | None = None


class Passes(Protocol):
    """A way to train on a batch."""

    def __call__(self, batch: Batch, *beside: Tensor) -> Trained:
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
class MeanPasses:
    """Trains on the mean loss; ``Passes``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss a token.
        together: The sum over the ranks.
    """

    def __init__(self, engine: Engine, together: StepSum) -> None:
        self._engine = engine
        self._together = together

    def __call__(self, batch: Batch, *beside: Tensor) -> Trained:
        """See ``Passes``."""
        own = torch.stack([self._micro_step(tokens) for tokens in batch.tokens])
        losses, *others = self._together(batch, own, *beside)
        return Trained(losses, tuple(others))

    def _micro_step(self, tokens: Tensor) -> Tensor:
        """Train on one micro-batch; return the mean loss of each sequence, shape ``(b,)``."""
        losses = self._engine(tokens)
        self._engine.backward(losses.mean())
        self._engine.step()
        return losses.detach().mean(dim=-1)


@final
class WeightedPasses:
    """Trains on a weighted mean, by weights that follow the losses of the whole global batch.

    With one micro-batch a step, its losses are known between forward and backward pass, and
    nothing is computed twice. With several, a forward pass over all of them comes first, without
    gradients and dropout. If a loss is not finite all sequences count for the same, as without
    weights. ``Passes``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss a token.
        reweighting: Where the weights come from.
        together: The sum over the ranks.
    """

    def __init__(self, engine: Engine, reweighting: Reweighting, together: StepSum) -> None:
        self._engine = engine
        self._reweighting = reweighting
        self._together = together
        self._mean = MeanPasses(engine, together)

    def __call__(self, batch: Batch, *beside: Tensor) -> Trained:
        """See ``Passes``."""
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
        return Trained(everyone, tuple(others), weights)

    def _at_once(self, batch: Batch, *beside: Tensor) -> Trained:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        own = self._engine(tokens).mean(dim=-1)
        losses, *others = self._together(batch, own.detach()[None], *beside)
        weights = self._weights(losses, batch.step)
        self._descend(own, weights[rows])
        return Trained(losses, tuple(others), weights)

    def _descend(self, losses: Tensor, weights: FloatArray) -> None:
        """Take the gradient of a micro-batch's weighted mean, and the step if it is due."""
        self._engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())
        self._engine.step()

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)
