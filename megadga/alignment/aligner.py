"""Draws an update's probe batches and has them measured. Knows no engine, weights or files."""

from collections.abc import Sequence
from typing import final

import numpy as np

from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import DrawnSequences, GradientProbe
from megadga.arrays import IntArray
from megadga.mixing.scheduler import Alignments
from megadga.sampling.probes import ProbeSampler
from megadga.shards.sequences import SequenceSet


@final
class Aligner:
    """Measures the alignment of each domain with the specific set (paper, Algorithm 1).

    Args:
        probe: The way gradients are measured.
        domains: The training domains, ``K`` of them.
        specific: The specific set.
        budget: Sequences per gradient.
        seed: Addresses the probe streams; they are apart from the training order, so that a
            measurement moves no cursor.
    """

    def __init__(
        self,
        probe: GradientProbe,
        domains: Sequence[SequenceSet],
        specific: SequenceSet,
        *,
        budget: ProbeBudget,
        seed: int,
    ) -> None:
        self._probe = probe
        self._sets = (*domains, specific)
        self._budget = budget
        self._sampler = ProbeSampler(_sizes(self._sets), seed=seed)

    def measure(self, update: int) -> Alignments:
        """Measure update number ``update`` (from 0). Collective; equal bits on every rank."""
        *domains, specific = (self._draw(update, index) for index in range(len(self._sets)))
        return self._probe.measure(specific, domains)

    def _draw(self, update: int, index: int) -> DrawnSequences:
        is_specific = index == len(self._sets) - 1
        budget = self._budget
        count = budget.specific_sequences if is_specific else budget.sequences_per_domain
        selection = self._sampler.draw(update, index, count)
        return DrawnSequences(self._sets[index], selection.sequences)


def _sizes(sets: Sequence[SequenceSet]) -> IntArray:
    return np.array([each.num_sequences for each in sets], dtype=np.int64)
