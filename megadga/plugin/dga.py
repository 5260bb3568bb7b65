"""Dynamic Gradient Alignment as a plugin. Knows an engine, domains and a scheduler."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch

from megadga.alignment.aligner import Aligner
from megadga.alignment.methods import ProbeBudget
from megadga.arrays import FloatArray
from megadga.errors import ResumeError
from megadga.mixing.scheduler import Alignments, MixtureState, Scheduler
from megadga.plugin.batches import Batch, BatchIndices, BatchSource, Sampling
from megadga.plugin.protocol import Metrics
from megadga.sampling.sampler import SamplerState
from megadga.shards.domain import Domain
from megadga.shards.sequences import SequenceSet
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import Engine
from megadga.zero.sharded import Loss, ShardedProbe, mean_loss


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
            nothing. If it is padded (``Examples``), the module is shown ``PADDING`` among its
            tokens when alignments are measured, and at no other time.
        scheduler: The algorithm that moves the weights.
        sampling: How windows are drawn.
        interval: ``T_r``, optimizer steps between updates, at least 1.
        budget: Sequences an update measures its gradients on.
        loss: Mean loss of tokens ``(b, S + 1)`` through a module, over the targets that are not
            padding; by default what the module returns, or its mean if that is a loss a token.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on this engine.
        ValueError: If the arguments contradict each other.
    """

    name = "mixture"

    def __init__(
        self,
        engine: Engine,
        domains: Sequence[Domain],
        specific: SequenceSet | None,
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
        self._scheduler = scheduler
        self._interval = interval
        self._collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self._batches = BatchSource(engine, domains, sampling, collective=self._collective)
        self._mixture = self._agreed(scheduler.init())
        if self._mixture.weights.shape != self._batches.sizes.shape:
            raise ValueError(
                f"scheduler: expected weights over {len(domains)} domains, "
                f"found shape {self._mixture.weights.shape}"
            )
        # What a saved state must agree on, or its cursors would mean other sequences.
        self._identity: dict[str, Any] = {
            "domains": list(self.names),
            "windows": self._batches.sizes.tolist(),
            "global_batch_size": engine.train_batch_size(),
            "seed": sampling.seed,
        }
        self._aligner = None
        if scheduler.observes is Alignments:
            if specific is None:
                raise ValueError("specific: expected a specific set to align with, found None")
            probe = ShardedProbe(engine, loss=loss)
            self._aligner = Aligner(probe, domains, specific, budget=budget, seed=sampling.seed)

    @property
    def step(self) -> int:
        """Optimizer steps whose batches were handed out."""
        return self._batches.state.step

    @property
    def weights(self) -> FloatArray:
        """The averaged weights that batches are sampled from, shape ``(K,)``."""
        return self._mixture.averaged_weights

    @property
    def epochs(self) -> FloatArray:
        """How often each domain has been gone through, shape ``(K,)``."""
        return self._batches.epochs

    def next_batch(self) -> Batch:
        """Return this rank's tokens of the next optimizer step, and advance."""
        return self._batches.next_batch(self.weights, self._is_update)

    def next_indices(self) -> BatchIndices:
        """Return which windows make up the next optimizer step, read nothing, and advance."""
        return self._batches.next_indices(self.weights)

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
        self._mixture = self._agreed(self._scheduler.update(before, alignments))
        if self._mixture.num_skipped > before.num_skipped:
            return {"event": self._skipped(alignments)}
        return {"update": self._updated(alignments)}

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.seek(self._batches.state)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to continue; equal on every rank."""
        mixture = self._mixture
        return {
            **self._identity,
            "step": self.step,
            "cursors": torch.from_numpy(self._batches.state.cursors.copy()),
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
        for key, expected in self._identity.items():
            if (found := state.get(key)) != expected:
                raise ResumeError(
                    f"checkpoint: {key}: expected {expected!r} as in this run, found {found!r}"
                )
        self._batches.seek(SamplerState(step=state["step"], cursors=state["cursors"].numpy()))
        self._mixture = MixtureState(
            weights=state["weights"].numpy(),
            averaged_weights=state["averaged_weights"].numpy(),
            num_updates=state["num_updates"],
            num_skipped=state["num_skipped"],
        )

    def _is_update(self, step: int) -> bool:
        return self._scheduler.observes is not None and step % self._interval == 0

    def _agreed(self, mixture: MixtureState) -> MixtureState:
        """Let the first rank's bits win: processors may round differently. Collective."""
        first = self._collective.of_first_rank
        return replace(
            mixture,
            weights=first(mixture.weights),
            averaged_weights=first(mixture.averaged_weights),
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
