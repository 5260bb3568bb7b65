"""Forward and backward passes of one optimizer step. Knows an engine and losses, and no domain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.alignment.protocols import Collective
from megadga.arrays import FloatArray
from megadga.mixing.loss_reweight import LossReweighting
from megadga.plugin import Batch
from megadga.zero.engine import Engine

TokenLosses = Callable[[Tensor], Tensor]
"""From tokens ``(b, S + 1)`` to a model's losses without gradients, ``(b, S)``."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a step was trained on.

    Attributes:
        losses: Mean loss of each sequence of the global batch, nats a token, shape ``(B,)``.
        weights: What each counted for, of mean 1, same shape; None: all for the same.
    """

    losses: FloatArray
    weights: FloatArray | None = None


class Passes(Protocol):
    """A way to train on a batch."""

    def __call__(self, batch: Batch) -> Trained:
        """Complete one optimizer step. Collective: every rank calls it with its part."""
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
        collective: The data-parallel ranks.
    """

    def __init__(self, engine: Engine, collective: Collective) -> None:
        self._engine = engine
        self._collective = collective

    def __call__(self, batch: Batch) -> Trained:
        """See ``Passes``."""
        own = torch.stack([self._micro_step(tokens) for tokens in batch.tokens])
        return Trained(gathered(own, batch, self._collective))

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
        collective: The data-parallel ranks.
    """

    def __init__(self, engine: Engine, reweighting: Reweighting, collective: Collective) -> None:
        self._engine = engine
        self._reweighting = reweighting
        self._collective = collective
        self._mean = MeanPasses(engine, collective)

    def __call__(self, batch: Batch) -> Trained:
        """See ``Passes``."""
        if batch.step <= self._reweighting.rule.warmup:
            return self._mean(batch)
        if len(batch.tokens) == 1:
            return self._at_once(batch)
        model = self._reweighting.losses
        ahead = torch.stack([model(tokens).mean(dim=-1) for tokens in batch.tokens])
        weights = self._weights(gathered(ahead, batch, self._collective), batch.step)
        own: list[Tensor] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            losses = self._engine(tokens).mean(dim=-1)
            self._descend(losses, weights[rows])
            own.append(losses.detach())
        return Trained(gathered(torch.stack(own), batch, self._collective), weights)

    def _at_once(self, batch: Batch) -> Trained:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        own = self._engine(tokens).mean(dim=-1)
        losses = gathered(own.detach()[None], batch, self._collective)
        weights = self._weights(losses, batch.step)
        self._descend(own, weights[rows])
        return Trained(losses, weights)

    def _descend(self, losses: Tensor, weights: FloatArray) -> None:
        """Take the gradient of a micro-batch's weighted mean, and the step if it is due."""
        self._engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())
        self._engine.step()

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


def gathered(own: Tensor, batch: Batch, collective: Collective) -> FloatArray:
    """Return a number of every sequence of the global batch, shape ``(B,)``. Collective.

    Args:
        own: That of this rank's sequences, shape ``(accumulation, micro batch)``.
        batch: Says where they belong.
        collective: The data-parallel ranks.
    """
    numbers = np.zeros(batch.indices.global_domains.size)
    numbers[batch.indices.rows] = own.double().cpu().numpy()
    return collective.agreed_sum(numbers)
