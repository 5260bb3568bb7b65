"""One optimizer step: micro-batches through the engine, and what they cost by domain.

Knows an engine and a batch; not where batches come from.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from megadga.alignment.protocols import Collective
from megadga.arrays import FloatArray, IntArray
from megadga.plugin import Batch, Metrics
from megadga.zero.engine import Engine


@final
class Trainer:
    """Trains a module that returns one loss a token, on batches without padding.

    Args:
        engine: A DeepSpeed engine around such a module.
        names: The domains' names, ``K`` of them.
        collective: The data-parallel ranks.
        clock: Seconds since any fixed moment.
        observe_losses: Told the domain and the mean loss of every sequence of the global batch
            after each step, both of shape ``(B,)``; equal on every rank.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        *,
        collective: Collective,
        clock: Callable[[], float],
        observe_losses: Callable[[IntArray, FloatArray], None] | None = None,
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._collective = collective
        self._clock = clock
        self._observe_losses = observe_losses

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences, in micro-batches of the size that the engine expects.

        Returns:
            A ``train`` record: mean loss (nats a token), the learning rate that was used, the
            gradient's norm before clipping, tokens a second over all ranks, and of each domain in
            the batch how many sequences it had and their mean loss.
        """
        started = self._clock()
        learning_rate = self._engine.get_lr()[0]
        own_losses = torch.stack([self._micro_step(tokens) for tokens in batch.tokens])
        losses = self._gather(own_losses, batch)
        if self._observe_losses is not None:
            self._observe_losses(batch.indices.global_domains, losses)
        num_tokens = losses.size * (batch.tokens.shape[-1] - 1)
        norm = self._engine.get_global_grad_norm()
        return {
            "train": {
                "loss": float(losses.mean()),
                "learning_rate": learning_rate,
                "grad_norm": None if norm is None else float(norm),
                "tokens_per_s": num_tokens / (self._clock() - started),
                **self._by_domain(losses, batch.indices.global_domains),
            }
        }

    def _micro_step(self, tokens: Tensor) -> Tensor:
        """Train on one micro-batch; return the mean loss of each sequence, shape ``(b,)``."""
        losses = self._engine(tokens)
        self._engine.backward(losses.mean())
        self._engine.step()
        return losses.detach().mean(dim=-1)

    def _gather(self, own_losses: Tensor, batch: Batch) -> FloatArray:
        """Return the loss of every sequence of the global batch, shape ``(B,)``. Collective."""
        losses = np.zeros(batch.indices.global_domains.size)
        losses[batch.indices.rows] = own_losses.double().cpu().numpy()
        return self._collective.agreed_sum(losses)

    def _by_domain(self, losses: FloatArray, domains: IntArray) -> dict[str, Any]:
        drawn, places, counts = np.unique(domains, return_inverse=True, return_counts=True)
        means = np.bincount(places, weights=losses) / counts
        names: list[str] = [self._names[domain] for domain in drawn.tolist()]
        return {
            "sequences_by_domain": dict(zip(names, counts.tolist(), strict=True)),
            "loss_by_domain": dict(zip(names, means.tolist(), strict=True)),
        }
