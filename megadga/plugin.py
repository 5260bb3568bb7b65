"""What a DeepSpeed training loop registers: batches by domain, and mixture updates between steps.

Knows an engine, domains and a scheduler; no configuration, no model and no loop. Nothing of
DeepSpeed is patched: the loop takes its batches here and calls ``after_step``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.alignment.aligner import Aligner, ProbeBudget
from megadga.arrays import FloatArray, IntArray
from megadga.errors import ExhaustedError, ResumeError
from megadga.mixing.scheduler import Alignments, MixtureState, Scheduler
from megadga.sampling.rows import rank_rows
from megadga.sampling.sampler import BatchPlan, MixtureSampler, SamplerState
from megadga.shards.domain import Domain
from megadga.shards.reader import BatchReader
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import Engine
from megadga.zero.sharded import Loss, ShardedProbe, mean_loss

Metrics = dict[str, dict[str, Any]]
"""What to log of a step, by record type: ``train``, ``update``, ``evaluation``, ``event``."""


class Plugin(Protocol):
    """Something a training loop calls after each optimizer step and saves with its checkpoints."""

    @property
    def name(self) -> str:
        """The key of this plugin's state in a checkpoint."""
        ...

    def after_step(self, step: int) -> Metrics:
        """Do what is due after optimizer step ``step`` (from 1). Collective: every rank calls."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state, equal on every rank: numbers, strings, lists, CPU tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; raise ``ResumeError`` if it belongs to another run."""
        ...


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
    method: Literal["systematic", "multinomial"] = "systematic"
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


@final
class DgaPlugin:
    """Online data mixing for any DeepSpeed loop (Dynamic Gradient Alignment, arXiv 2410.02498).

    Each optimizer step, take ``next_batch()`` (or ``next_indices()`` and read the windows
    yourself), train on its micro-batches, then call ``after_step(step)`` on every rank. Every
    ``interval`` steps that measures the domains' alignments and updates the mixture. Put
    ``state_dict()`` into ``engine.save_checkpoint(client_state=...)``.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0-3; its ``train_batch_size()`` is ``B``.
        domains: The training domains, ``K`` of them, of one sequence length.
        specific: What the model should become good at; None only for a scheduler that measures
            nothing.
        scheduler: The algorithm that moves the weights.
        sampling: How windows are drawn.
        interval: ``T_r``, optimizer steps between updates, at least 1.
        budget: Sequences an update measures its gradients on.
        loss: Mean loss of tokens ``(b, S + 1)`` through a module; by default the mean of what the
            module returns.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on this engine.
        ValueError: If the arguments contradict each other.
    """

    name = "mixture"

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[Domain],
        specific: Domain | None,
        scheduler: Scheduler,
        *,
        sampling: Sampling,
        interval: int = 100,
        budget: ProbeBudget = ProbeBudget(),
        loss: Loss = mean_loss,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval: expected at least 1 step, found {interval}")
        self.names = tuple(domain.name for domain in domains)
        self._engine = engine
        self._scheduler = scheduler
        self._interval = interval
        self._sampling = sampling
        self._sizes = np.array([domain.num_sequences for domain in domains], dtype=np.int64)
        self._sampler = MixtureSampler(
            self._sizes,
            global_batch_size=engine.train_batch_size(),
            seed=sampling.seed,
            method=sampling.method,
            max_epochs=sampling.max_epochs,
        )
        self._rows = _rank_rows(engine)
        self._reader = BatchReader(domains, rows=self._rows, prefetch=sampling.prefetch)
        self._aligner = None
        if scheduler.observes is Alignments:
            if specific is None:
                raise ValueError("specific: expected a specific set to align with, found None")
            self._aligner = Aligner(
                ShardedProbe(engine, loss=loss),
                domains,
                specific,
                budget=budget,
                seed=sampling.seed,
            )
        self._mixture = scheduler.init()
        if self._mixture.weights.shape != self._sizes.shape:
            raise ValueError(
                f"scheduler: expected weights over {len(domains)} domains, "
                f"found shape {self._mixture.weights.shape}"
            )
        self._state = self._sampler.init()
        self._stream: Iterator[tuple[BatchPlan, IntArray]] = iter(())

    @property
    def step(self) -> int:
        """Optimizer steps whose batches were handed out."""
        return self._state.step

    @property
    def weights(self) -> FloatArray:
        """The averaged weights that batches are sampled from, shape ``(K,)``."""
        return self._mixture.averaged_weights

    @property
    def epochs(self) -> FloatArray:
        """How often each domain has been gone through, shape ``(K,)``."""
        return self._sampler.epochs(self._state)

    def next_batch(self) -> Batch:
        """Return this rank's tokens of the next optimizer step, and advance."""
        plan, tokens = self._next_read()
        self._state = plan.state_after
        return Batch(self._indices(plan), torch.from_numpy(tokens).to(self._engine.device))

    def next_indices(self) -> BatchIndices:
        """Return which windows make up the next optimizer step, read nothing, and advance."""
        self.close()
        plan = self._sampler.plan(self._state, self.weights)
        self._state = plan.state_after
        return self._indices(plan)

    def after_step(self, step: int) -> Metrics:
        """Update the mixture if one is due. Collective: call it on every rank.

        Args:
            step: Optimizer steps completed so far, equal to ``self.step``.

        Returns:
            An ``update`` record; or an ``event`` if the alignments were not finite and the update
            was skipped; or nothing.

        Raises:
            ValueError: If batches and steps have gone out of step.
        """
        if step != self.step:
            raise ValueError(
                f"after_step: expected step {self.step}, the batches handed out, found {step}"
            )
        if self._aligner is None or not self._is_update(step):
            return {}
        before = self._mixture
        alignments = self._aligner.measure(before.num_updates + before.num_skipped)
        self._mixture = self._scheduler.update(before, alignments)
        if self._mixture.num_skipped > before.num_skipped:
            return {"event": self._skipped(alignments)}
        return {"update": self._updated(alignments)}

    def close(self) -> None:
        """Stop reading ahead; the next batch is planned anew."""
        self._stream = iter(())

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to continue; equal on every rank."""
        mixture = self._mixture
        return {
            **self._identity(),
            "step": self._state.step,
            "cursors": torch.from_numpy(self._state.cursors.copy()),
            "weights": torch.from_numpy(mixture.weights.copy()),
            "averaged_weights": torch.from_numpy(mixture.averaged_weights.copy()),
            "num_updates": mixture.num_updates,
            "num_skipped": mixture.num_skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``, on any number of ranks.

        Raises:
            ResumeError: If it was saved with other domains, sizes, batch size or seed.
        """
        for key, expected in self._identity().items():
            if (found := state.get(key)) != expected:
                raise ResumeError(
                    f"checkpoint: {key}: expected {expected!r} as in this run, found {found!r}"
                )
        self.close()
        self._state = SamplerState(step=state["step"], cursors=state["cursors"].numpy())
        self._mixture = MixtureState(
            weights=state["weights"].numpy(),
            averaged_weights=state["averaged_weights"].numpy(),
            num_updates=state["num_updates"],
            num_skipped=state["num_skipped"],
        )

    def _identity(self) -> dict[str, Any]:
        """What a saved state must agree on, or its cursors would mean other sequences."""
        return {
            "domains": list(self.names),
            "windows": self._sizes.tolist(),
            "global_batch_size": self._engine.train_batch_size(),
            "seed": self._sampling.seed,
        }

    def _is_update(self, step: int) -> bool:
        return self._scheduler.observes is not None and step % self._interval == 0

    def _next_read(self) -> tuple[BatchPlan, IntArray]:
        planned = next(self._stream, None)
        if planned is None:
            self._stream = self._reader.stream(self._plans_until_update())
            planned = next(self._stream)
        return planned

    def _plans_until_update(self) -> Iterator[BatchPlan]:
        """Plan ahead while the weights are constant: never past the next update."""
        state, weights = self._state, self.weights
        while state.step == self.step or not self._is_update(state.step):
            try:
                plan = self._sampler.plan(state, weights)
            except ExhaustedError:
                if state.step == self.step:
                    raise
                return  # only planned ahead: it is an error when that batch is asked for
            yield plan
            state = plan.state_after

    def _indices(self, plan: BatchPlan) -> BatchIndices:
        return BatchIndices(
            step=plan.state_after.step,
            domains=plan.selection.domains[self._rows],
            sequences=plan.selection.sequences[self._rows],
            rows=self._rows,
            global_domains=plan.selection.domains,
        )

    def _updated(self, alignments: Alignments) -> dict[str, Any]:
        norms = np.sqrt(alignments.squared_norms)
        return {
            "alignments": self._by_name(alignments.dots),
            "gradient_norms": self._by_name(norms),
            "specific_gradient_norm": float(np.sqrt(alignments.specific_squared_norm)),
            "weights": self._by_name(self._mixture.weights),
            "averaged_weights": self._by_name(self._mixture.averaged_weights),
            "epochs": self._by_name(self.epochs),
        }

    def _skipped(self, alignments: Alignments) -> dict[str, Any]:
        finite = np.isfinite(alignments.dots) & np.isfinite(alignments.squared_norms)
        return {
            "event": "update_skipped",
            "reason": "alignments are not finite",
            "domains": [name for name, good in zip(self.names, finite, strict=True) if not good],
            "num_skipped": self._mixture.num_skipped,
        }

    def _by_name(self, values: FloatArray) -> dict[str, float]:
        return dict(zip(self.names, values.tolist(), strict=True))


def _rank_rows(engine: Engine) -> IntArray:
    group = ProcessGroupCollective(engine.data_parallel_group, engine.device)
    return rank_rows(
        engine.train_batch_size(),
        rank=group.rank,
        world_size=group.world_size,
        micro_batch_size=engine.train_micro_batch_size_per_gpu(),
    )
