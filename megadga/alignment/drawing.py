"""Draws an update's probe sequences of each set. Knows no engine, weights or files."""

from collections.abc import Sequence
from typing import final

import numpy as np

from megadga.alignment.methods import ProbeBudget
from megadga.alignment.protocols import Drawn, DrawnMixture, DrawnSequences
from megadga.mixing.mixtures import Mixtures
from megadga.sampling.probes import ProbeSampler
from megadga.sampling.selection import Selection
from megadga.shards.sequences import SequenceSet


@final
class ProbeDraws:
    """The sequences that updates are measured on.

    Args:
        domains: The training domains, ``K`` of them.
        specific: The specific set; None: domains are compared with their own mean, of all that an
            update draws from them.
        budget: Sequences of each.
        seed: Addresses the streams; they are apart from the training order, so that a measurement
            moves no cursor.
        mixtures: What is measured in the domains' place; None: they are.

    Attributes:
        num_measured: Domains, or mixtures of them.

    Raises:
        ValueError: If the mixtures are of another number of domains, or there is no specific set
            to compare them with.
    """

    def __init__(
        self,
        domains: Sequence[SequenceSet],
        specific: SequenceSet | None,
        *,
        budget: ProbeBudget,
        seed: int,
        mixtures: Mixtures | None = None,
    ) -> None:
        if mixtures is not None and mixtures.num_domains != len(domains):
            raise ValueError(
                f"mixtures: expected some of {len(domains)} domains, found {mixtures.num_domains}"
            )
        if mixtures is not None and specific is None:
            raise ValueError("specific: expected a set to compare mixtures with, found None")
        self._sets = tuple(domains) if specific is None else (*domains, specific)
        self._budget = budget
        sizes = np.array([each.num_sequences for each in self._sets], dtype=np.int64)
        self._sampler = ProbeSampler(sizes, seed=seed)
        self._domains, self._mixtures = tuple(domains), mixtures
        self._has_specific = specific is not None
        self.num_measured = len(domains) if mixtures is None else len(mixtures.names)

    def specific(self, update: int) -> DrawnSequences:
        """Return an update's sequences of the specific set."""
        assert self._has_specific
        return self._draw(update, len(self._domains), self._budget.specific_sequences)

    def target(self, update: int) -> Drawn:
        """Return the sequences whose gradient the others are compared with in an update."""
        if self._has_specific:
            return self.specific(update)
        # As many of each domain, so that every domain counts once in the mean over all.
        domains = range(len(self._domains))
        drawn = [self._draw(update, i, self._budget.sequences_per_domain) for i in domains]
        owners = np.repeat(np.array(domains), [len(each) for each in drawn])
        sequences = np.concatenate([each.sequences for each in drawn])
        return DrawnMixture(self._domains, Selection(owners, sequences))

    def measured(self, update: int, index: int) -> Drawn:
        """Return an update's sequences of one domain, or of one mixture of them."""
        count = self._budget.sequences_per_domain
        if self._mixtures is None:
            return self._draw(update, index, count)
        domains, shares = self._mixtures.row(index)
        selection = self._sampler.draw_mixture(
            update, index, count, domains=domains, shares=shares
        )
        return DrawnMixture(self._domains, selection)

    def _draw(self, update: int, index: int, count: int) -> DrawnSequences:
        selection = self._sampler.draw(update, index, count)
        return DrawnSequences(self._sets[index], selection.sequences)
