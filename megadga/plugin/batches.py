"""Hands out this rank's part of each global batch."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import Domain
from megadga.data.reader import BatchReader, PendingRead
from megadga.data.rows import rank_rows
from megadga.data.sampler import BatchPlan, DrawMethod, MixtureSampler, SamplerState, Selection
from megadga.errors import ExhaustedError
from megadga.probes.engine import Engine


@dataclass(frozen=True)
class Sampling:
    """How training windows are drawn from the averaged weights.

    Attributes:
        seed: Addresses every random choice: window order, batch offsets, probe streams.
        method: ``systematic`` (realised counts within one of ``B`` times the weight) or
            ``multinomial`` (independent draws, the paper's letter).
        max_epochs: No domain is repeated more often than this; None for no cap.
        prefetch: Batches read ahead in the background, at least 1.
    """

    seed: int
    method: DrawMethod = "systematic"
    max_epochs: float | None = None
    prefetch: int = 2


@dataclass(frozen=True)
class BatchIndices:
    """Which windows this rank trains on in one optimizer step.

    Attributes:
        step: The optimizer step that the batch completes, from 1.
        domains: Domain of each sequence, shape ``(accumulation, micro batch)``.
        sequences: Window index inside its domain, same shape.
        rows: Place of each sequence in the global batch, same shape.
        global_domains: Domain of each sequence of the global batch, shape ``(B,)``.
    """

    step: int
    domains: IntArray
    sequences: IntArray
    rows: IntArray
    global_domains: IntArray


@dataclass(frozen=True)
class Batch:
    """One optimizer step's sequences for this rank.

    Attributes:
        indices: Where they come from.
        tokens: Token ids on the engine's device, shape ``(accumulation, micro batch, S + 1)``;
            iterate over it for the micro-batches.
    """

    indices: BatchIndices
    tokens: Tensor

    @property
    def step(self) -> int:
        """The optimizer step that the batch completes, from 1."""
        return self.indices.step


class RankLayout(Protocol):
    """The data-parallel ranks, as far as batches are divided among them."""

    @property
    def rank(self) -> int:
        """This process's place, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...


@final
class BatchLoader:
    """Plans global batches, and reads this rank's rows of them ahead of their use.

    Args:
        engine: Says how large a global batch is and how it is divided.
        domains: The training domains, ``K`` of them, of one sequence length.
        sampling: How windows are drawn.
        collective: The data-parallel ranks.

    Attributes:
        sizes: Windows of each domain, shape ``(K,)``.
        state: How far the data has been consumed; what is only read ahead does not count.

    Raises:
        ValueError: If ``sampling.prefetch`` is below 1.
    """

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[Domain],
        sampling: Sampling,
        *,
        collective: RankLayout,
    ) -> None:
        self.sizes = np.array([domain.num_sequences for domain in domains], dtype=np.int64)
        self._device = engine.device
        self._sampler = MixtureSampler(
            self.sizes,
            global_batch_size=engine.train_batch_size(),
            seed=sampling.seed,
            method=sampling.method,
            max_epochs=sampling.max_epochs,
        )
        self._rows = rank_rows(
            engine.train_batch_size(),
            rank=collective.rank,
            world_size=collective.world_size,
            micro_batch_size=engine.train_micro_batch_size_per_gpu(),
        )
        if sampling.prefetch < 1:
            raise ValueError(f"prefetch: expected at least 1, found {sampling.prefetch}")
        self._prefetch = sampling.prefetch
        self._reader = BatchReader(domains, rows=self._rows)
        self._ahead: deque[tuple[BatchPlan, PendingRead]] = deque()
        self._guess: PendingRead | None = None
        self.state = self._sampler.init()

    @property
    def epochs(self) -> FloatArray:
        """How often each domain has been gone through, shape ``(K,)``."""
        return self._sampler.epochs(self.state)

    def next_batch(
        self,
        weights: FloatArray,
        weights_end: Callable[[int], bool],
        expected: Callable[[int], FloatArray],
    ) -> Batch:
        """Return the next batch and advance.

        Meanwhile the next ones are read: those that the weights hold for, and of those that follow
        other weights what the expected ones say.

        Args:
            weights: The mixture, shape ``(K,)``; the same until a step at which it ends.
            weights_end: Whether the weights hold only up to and with a step: plans never go past.
            expected: The mixture that may follow such a step, shape ``(K,)``. If it turns out to
                be another, what it does not share with the other is read again, and nothing else
                changes.
        """
        self._read_ahead(weights, weights_end, expected)
        plan, reading = self._ahead.popleft()
        tokens = self._reader.tokens(reading)
        self.state = plan.state_after
        return Batch(self._indices(plan), torch.as_tensor(tokens, device=self._device))

    def next_indices(self, weights: FloatArray) -> BatchIndices:
        """Return which windows make up the next batch, read nothing, and advance."""
        plan = self._sampler.plan(self.state, weights)
        self.seek(plan.state_after)
        return self._indices(plan)

    def seek(self, state: SamplerState) -> None:
        """Continue from ``state``; what was read ahead is dropped."""
        for _, reading in self._ahead:
            reading.cancel()
        self._ahead.clear()
        self._guess = None
        self.state = state

    def close(self) -> None:
        """Stop reading ahead, and end the thread that does."""
        self.seek(self.state)
        self._reader.close()

    def _read_ahead(
        self,
        weights: FloatArray,
        weights_end: Callable[[int], bool],
        expected: Callable[[int], FloatArray],
    ) -> None:
        """Have the next batch and ``prefetch`` more begun, as far as that can be."""
        while len(self._ahead) <= self._prefetch:
            state = self._ahead[-1][0].state_after if self._ahead else self.state
            if self._ahead and weights_end(state.step):
                if self._guess is None:
                    then = expected(state.step)
                    self._guess = self._reader.begin(partial(self._selected, state, then))
                return
            try:
                plan = self._sampler.plan(state, weights)
            except ExhaustedError:
                if not self._ahead:
                    raise
                return  # only planned ahead: it is an error when that batch is asked for
            reading = self._reader.begin(partial(_selection, plan), guess=self._guess)
            self._guess = None
            self._ahead.append((plan, reading))

    def _selected(self, state: SamplerState, weights: FloatArray) -> Selection:
        return self._sampler.plan(state, weights).selection

    def _indices(self, plan: BatchPlan) -> BatchIndices:
        return BatchIndices(
            step=plan.state_after.step,
            domains=plan.selection.domains[self._rows],
            sequences=plan.selection.sequences[self._rows],
            rows=self._rows,
            global_domains=plan.selection.domains,
        )


def _selection(plan: BatchPlan) -> Selection:
    return plan.selection
