"""Draws an update's probe sequences of each set. Knows no engine, weights or files."""

from collections.abc import Sequence
from typing import final

import numpy as np

from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import DrawnSequences
from megadga.sampling.probes import ProbeSampler
from megadga.shards.sequences import SequenceSet


@final
class ProbeDraws:
    """The sequences that updates are measured on.

    Args:
        domains: The training domains, ``K`` of them.
        specific: The specific set.
        budget: Sequences of each.
        seed: Addresses the streams; they are apart from the training order, so that a measurement
            moves no cursor.
    """

    def __init__(
        self,
        domains: Sequence[SequenceSet],
        specific: SequenceSet,
        *,
        budget: ProbeBudget,
        seed: int,
    ) -> None:
        self._sets = (*domains, specific)
        self._budget = budget
        sizes = np.array([each.num_sequences for each in self._sets], dtype=np.int64)
        self._sampler = ProbeSampler(sizes, seed=seed)
        self.num_domains = len(domains)

    def specific(self, update: int) -> DrawnSequences:
        """Return an update's sequences of the specific set."""
        return self._draw(update, self.num_domains, self._budget.specific_sequences)

    def domain(self, update: int, index: int) -> DrawnSequences:
        """Return an update's sequences of one domain."""
        return self._draw(update, index, self._budget.sequences_per_domain)

    def _draw(self, update: int, index: int, count: int) -> DrawnSequences:
        selection = self._sampler.draw(update, index, count)
        return DrawnSequences(self._sets[index], selection.sequences)
