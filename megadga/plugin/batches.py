"""Provides this rank's part of each global batch, with prefetching."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray, check_simplex
from megadga.data.domain import SequenceSet, trains_all_tokens
from megadga.data.order import WindowOrder
from megadga.data.reader import BatchReader, PendingRead, count_targets
from megadga.data.resampling import Resampling, WindowNorms
from megadga.data.rows import rank_rows
from megadga.data.sampler import BatchPlan, DrawMethod, MixtureSampler, SamplerState, Selection
from megadga.errors import ExhaustedError
from megadga.probes.engine import Engine


@dataclass(frozen=True)
class Sampling:
    """How training windows are sampled from the averaged weights.

    Attributes:
        seed: Seed of every random choice: window order, batch offsets, probe draws.
        method: ``systematic`` (counts within one of ``B`` times the weight) or ``multinomial``
            (independent draws, as in the paper).
        max_epochs: Maximum number of epochs of any domain; None: no limit.
        prefetch: Batches prefetched in the background, at least 1.
        order: Order of each domain's windows, if the domains have changed since the run began;
            None: they have not.
        objective: Mixture that the loss is over, whatever batches are sampled from, shape ``(K,)``
            (see ``BatchIndices.sequence_weights``); None: that of the batches.
        resampled_uniformly: Share of uniform draws where windows are drawn by their norms after
            the first epoch of their domain (`Resampling`), in ``(0, 1]``, for a rule that observes
            ``output_norms``; None: every epoch has each window once.
    """

    seed: int
    method: DrawMethod = "systematic"
    max_epochs: float | None = None
    prefetch: int = 2
    order: WindowOrder | None = None
    objective: FloatArray | None = None
    resampled_uniformly: float | None = None


@dataclass(frozen=True)
class BatchIndices:
    """Windows that this rank trains on in one optimizer step.

    Attributes:
        step: The optimizer step of the batch, from 1.
        domains: Domain of each sequence, shape ``(accumulation, micro batch)``.
        sequences: Window index inside its domain, same shape.
        rows: Row of each sequence in the global batch, same shape.
        global_domains: Domain of each sequence of the global batch, shape ``(B,)``.
        global_sequences: Window index of each inside its domain, same shape.
        global_targets: Targets of each sequence of the global batch, at least 1, shape ``(B,)``,
            equal on every rank; None: ``S`` of each, as all domains are windows of text.
        global_factors: Weight of each sequence's domain in the objective over its weight in the
            sampling of this batch, times its window's likewise (`Resampling`), shape ``(B,)``,
            equal on every rank; None: there is no objective apart from the sampling.
    """

    step: int
    domains: IntArray
    sequences: IntArray
    rows: IntArray
    global_domains: IntArray
    global_sequences: IntArray
    global_targets: IntArray | None = None
    global_factors: FloatArray | None = None

    def sequence_weights(self) -> FloatArray | None:
        """Return the weight of each sequence's mean loss in the global batch's loss.

        Of shape ``(B,)``; None: all equal. The loss is the mean over the ranks' micro-batches of
        ``(weights[rows] * sequence_means).mean()``, however the batch is divided.

        Without an objective, it is the mean over the targets of the global batch: weights are
        proportional to the sequences' numbers of targets, with a mean of 1. With one, ``w_k``, and
        sampling weights ``q_k``, each drawn sequence counts ``w_k / q_k``, times its share of the
        targets of its domain in the batch: the expected loss is ``sum_k w_k L_k`` over the mean
        losses ``L_k`` of the domains' targets, whatever ``q`` is and however long sequences are.
        """
        targets = self.global_targets
        if self.global_factors is None:
            return None if targets is None else targets / targets.mean()
        if targets is None:
            return self.global_factors
        counts = np.bincount(self.global_domains)
        means = np.bincount(self.global_domains, weights=targets) / np.maximum(counts, 1)
        return self.global_factors * targets / means[self.global_domains]


@dataclass(frozen=True)
class Batch:
    """One optimizer step's sequences for this rank.

    Attributes:
        indices: Their domains and windows.
        tokens: Token ids, shape ``(accumulation, micro batch, S + 1)``; iterate over it for the
            micro-batches.
    """

    indices: BatchIndices
    tokens: Tensor

    @property
    def step(self) -> int:
        """The optimizer step of the batch, from 1."""
        return self.indices.step


class RankLayout(Protocol):
    """Rank and world size of the data-parallel group."""

    @property
    def rank(self) -> int:
        """This process's rank, in ``[0, world_size)``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...


@final
class BatchLoader:
    """Plans global batches and prefetches this rank's rows of them.

    Args:
        engine: Defines the sizes of global batches and micro-batches.
        domains: The ``K`` training domains, with the same sequence length.
        sampling: How windows are sampled.
        collective: The data-parallel ranks.

    Attributes:
        sizes: Windows of each domain, shape ``(K,)``.
        state: Progress through the data, prefetched batches not included.

    Raises:
        ValueError: If ``sampling.prefetch`` is below 1, or ``sampling.objective`` is no mixture of
            the domains.
    """

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[SequenceSet],
        sampling: Sampling,
        *,
        collective: RankLayout,
    ) -> None:
        self.sizes = np.array([domain.num_sequences for domain in domains], dtype=np.int64)
        self._device = engine.device
        order = WindowOrder.of(self.sizes) if sampling.order is None else sampling.order
        if not np.array_equal(order.sizes, self.sizes):
            raise ValueError("order: expected that of the domains' windows, found another")
        self._sampler = MixtureSampler(
            order,
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
        if sampling.objective is not None and sampling.objective.shape != self.sizes.shape:
            expected, found = self.sizes.shape, sampling.objective.shape
            raise ValueError(f"objective: expected shape {expected}, found {found}")
        self._objective = None if sampling.objective is None else check_simplex(sampling.objective)
        if sampling.prefetch < 1:
            raise ValueError(f"prefetch: expected at least 1, found {sampling.prefetch}")
        self._prefetch = sampling.prefetch
        self._reader = BatchReader(domains, rows=self._rows)
        self._domains = tuple(domains)
        self._all_trained = all(map(trains_all_tokens, domains))
        self._resampling: Resampling | None = None
        if (share := sampling.resampled_uniformly) is not None:
            if not self._all_trained:
                raise ValueError(
                    "resampled_uniformly: expected domains that are streams, every sequence with "
                    "S targets, found one that is padded or masked"
                )
            self._resampling = Resampling(WindowNorms.unknown(self.sizes), share)
        self._prefetched: deque[tuple[BatchPlan, PendingRead]] = deque()
        self._speculative: PendingRead | None = None
        self.state = self._sampler.init()

    @property
    def order(self) -> WindowOrder:
        """The order of each domain's windows."""
        return self._sampler.order

    @property
    def epochs(self) -> FloatArray:
        """Number of epochs of each domain, shape ``(K,)``."""
        return self._sampler.epochs(self.state)

    def next_batch(
        self,
        weights: FloatArray,
        is_last_step: Callable[[int], bool],
        predict_weights: Callable[[int], FloatArray],
        device: torch.device | None = None,
    ) -> Batch:
        """Return the next batch and advance.

        Prefetches the batches up to the next change of the weights, and speculatively the first
        batch after it, from predicted weights.

        Args:
            weights: Sampling weights, shape ``(K,)``; constant until a step at which
                ``is_last_step`` is true.
            is_last_step: Whether the weights are valid only up to and including a step. No batch
                beyond such a step is planned.
            predict_weights: Returns the predicted weights after such a step, shape ``(K,)``. If
                the prediction is wrong, the differing windows are read again; the batch is the
                same.
            device: Where its tokens are put; None: the engine's.
        """
        self._read_ahead(weights, is_last_step, predict_weights)
        plan, reading = self._prefetched.popleft()
        tokens = self._reader.tokens(reading)
        self.state = plan.state_after
        return Batch(self._indices(plan), torch.as_tensor(tokens, device=device or self._device))

    def next_indices(self, weights: FloatArray) -> BatchIndices:
        """Return the windows of the next batch without reading them, and advance."""
        plan = self._sampler.plan(self.state, weights, self._resampling)
        self.seek(plan.state_after)
        return self._indices(plan)

    def resample(self, norms: WindowNorms) -> None:
        """Draw windows by these norms from the next batch on, of which none was prefetched."""
        assert self._resampling is not None
        assert not self._prefetched
        self._resampling = Resampling(norms, self._resampling.uniform_share)

    def seek(self, state: SamplerState) -> None:
        """Continue from ``state``, dropping prefetched batches."""
        for _, reading in self._prefetched:
            reading.cancel()
        self._prefetched.clear()
        self._speculative = None
        self.state = state

    def restart(self, weights: FloatArray) -> None:
        """Drop batches that were prefetched, as the next one is drawn from other weights.

        Raises:
            ExhaustedError: If it cannot be, under ``max_epochs``; then nothing is dropped.
        """
        self._sampler.plan(self.state, weights)
        self.seek(self.state)

    def close(self) -> None:
        """Drop prefetched batches and stop the reader thread."""
        self.seek(self.state)
        self._reader.close()

    def _read_ahead(
        self,
        weights: FloatArray,
        is_last_step: Callable[[int], bool],
        predict_weights: Callable[[int], FloatArray],
    ) -> None:
        """Schedule reads of the next batch and up to ``prefetch`` more."""
        while len(self._prefetched) <= self._prefetch:
            state = self._prefetched[-1][0].state_after if self._prefetched else self.state
            if self._prefetched and is_last_step(state.step):
                if self._speculative is None:
                    predicted = predict_weights(state.step)
                    self._speculative = self._reader.submit(
                        partial(self._selected, state, predicted)
                    )
                return
            try:
                plan = self._sampler.plan(state, weights, self._resampling)
            except ExhaustedError:
                if not self._prefetched:
                    raise
                return  # raised again when this batch is requested
            reading = self._reader.submit(partial(_selection, plan), speculative=self._speculative)
            self._speculative = None
            self._prefetched.append((plan, reading))

    def _selected(self, state: SamplerState, weights: FloatArray) -> Selection:
        return self._sampler.plan(state, weights, self._resampling).selection

    def _indices(self, plan: BatchPlan) -> BatchIndices:
        targets = None if self._all_trained else count_targets(self._domains, plan.selection)
        return BatchIndices(
            step=plan.state_after.step,
            domains=plan.selection.domains[self._rows],
            sequences=plan.selection.sequences[self._rows],
            rows=self._rows,
            global_domains=plan.selection.domains,
            global_sequences=plan.selection.sequences,
            global_targets=targets,
            global_factors=self._factors(plan),
        )

    def _factors(self, plan: BatchPlan) -> FloatArray | None:
        """Return ``w_k / q_k`` of each sequence's domain ``k``, times its window's factor."""
        if self._objective is None:
            return plan.factors
        drawn = plan.selection.domains
        factors = self._objective[drawn] / plan.weights[drawn]
        return factors if plan.factors is None else factors * plan.factors


def _selection(plan: BatchPlan) -> Selection:
    return plan.selection
