"""Periodic validation losses, without side effects on training."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import SequenceSet
from megadga.data.reader import read_windows
from megadga.data.rows import weighted_rank_rows
from megadga.data.sampler import Selection
from megadga.model.losses import target_mask
from megadga.plugin import Metrics
from megadga.probes.engine import Engine
from megadga.probes.state import evaluating
from megadga.train.ranks import DataParallelRanks


@dataclass(frozen=True)
class EvaluationPlan:
    """When and on how many sequences the model is evaluated.

    Attributes:
        interval: Optimizer steps between evaluations, at least 1.
        last_step: The last step, always evaluated.
        sequences: Maximum sequences per set, taken from its beginning, at least 1.
    """

    interval: int
    last_step: int
    sequences: int

    def due(self, step: int) -> bool:
        """Return whether step ``step`` (from 1) ends with an evaluation."""
        return step % self.interval == 0 or step == self.last_step


@final
class Evaluation:
    """Evaluates a fixed selection of held-out sequences of every set; a ``Plugin``.

    Sequences of all sets share micro-batches, so that many small sets are not padded to full
    micro-batches each. A set's loss is the mean over all its targets. The module
    is called without the engine and without gradients, so that the engine's counters, schedule and
    optimizer are not affected.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        domains: Held-out splits of training domains.
        specific: Held-out splits of the specific sets.
        plan: When, and on how many sequences.
        collective: The data-parallel ranks.
        observe_general: Called with the mean over the domains after each evaluation, if there are
            any; equal on every rank.
        epochs: Returns how far each training domain has been read, by name.

    Raises:
        ValueError: If there are no sets.
    """

    name = "evaluation"

    def __init__(
        self,
        engine: Engine,
        *,
        domains: Sequence[SequenceSet],
        specific: Sequence[SequenceSet],
        plan: EvaluationPlan,
        collective: DataParallelRanks,
        observe_general: Callable[[float], None] | None = None,
        epochs: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        if not domains and not specific:
            raise ValueError("domains, specific: expected a set to evaluate, found none")
        self._engine = engine
        self._num_domains = len(domains)
        self._sets = (*domains, *specific)
        self._plan = plan
        self._collective = collective
        self._observe_general = observe_general
        self._epochs = epochs
        self._selection = _first_sequences([s.num_sequences for s in self._sets], plan.sequences)
        self._num_targets = _num_targets(self._sets, plan.sequences)

    def after_step(self, step: int) -> Metrics:
        """Evaluate if it is due. Collective: every rank calls it.

        Returns:
            The record of `measure` with ``epochs``, or nothing.
        """
        if not self._plan.due(step):
            return {}
        return {"evaluation": {**self.measure()["evaluation"], "epochs": self._epochs()}}

    def measure(self) -> Metrics:
        """Evaluate. Collective: every rank calls it.

        Returns:
            An ``evaluation`` record with mean losses in nats per token: ``specific`` and
            ``domains`` by name, and ``general``, the mean over the domains (None without any).
        """
        losses = self._mean_losses().tolist()
        named = list(zip((s.name for s in self._sets), losses, strict=True))
        of_domains = losses[: self._num_domains]
        general = sum(of_domains) / len(of_domains) if of_domains else None
        if self._observe_general is not None and general is not None:
            self._observe_general(general)
        return {
            "evaluation": {
                "specific": dict(named[self._num_domains :]),
                "domains": dict(named[: self._num_domains]),
                "general": general,
            }
        }

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: an evaluation depends only on the model and the step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing, as there is no state."""

    def _mean_losses(self) -> FloatArray:
        """Return the mean loss of every set, shape ``(number of sets,)``. Collective."""
        owners = self._selection.domains
        losses = np.zeros(owners.size)
        chunks = weighted_rank_rows(
            self._num_targets,
            rank=self._collective.rank,
            world_size=self._collective.world_size,
            micro_batch_size=self._engine.train_micro_batch_size_per_gpu(),
        )
        with _without_training(self._engine.module):
            for chunk in chunks:
                found = self._sequence_losses(chunk.rows)
                if chunk.share > 0.0:
                    losses[chunk.rows] = found
        everyone = self._collective.merged(losses)
        return np.bincount(owners, everyone) / np.bincount(owners, self._num_targets)

    def _sequence_losses(self, rows: IntArray) -> FloatArray:
        """Return the sum of the token losses of each selected sequence, ``(len(rows),)``."""
        chosen = Selection(self._selection.domains[rows], self._selection.sequences[rows])
        tokens = torch.as_tensor(read_windows(self._sets, chosen), device=self._engine.device)
        token_losses: Tensor = self._engine.module(tokens)
        real = token_losses.double().masked_fill(~target_mask(tokens), 0.0)
        return real.sum(dim=-1).cpu().numpy()


def _first_sequences(sizes: Sequence[int], most: int) -> Selection:
    """Select up to ``most`` sequences of each set, from its beginning."""
    counts = [min(size, most) for size in sizes]
    return Selection(
        domains=np.repeat(np.arange(len(counts)), counts),
        sequences=np.concatenate([np.arange(count) for count in counts]),
    )


def _num_targets(sets: Sequence[SequenceSet], most: int) -> IntArray:
    """Return the number of targets of each selected sequence, ``(N,)``."""
    counts = [min(each.num_sequences, most) for each in sets]
    return np.concatenate(
        [each.num_targets(np.arange(n)) for each, n in zip(sets, counts, strict=True)]
    )


@contextmanager
def _without_training(module: nn.Module) -> Generator[None]:
    """Disable gradients and dropout, and restore the module's state afterwards."""
    with evaluating(module), torch.no_grad():
        yield
