"""The sequences that an update is measured on: drawn, numbered and read on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import SequenceSet
from megadga.data.probe_draws import ProbeSampler
from megadga.data.reader import count_targets, read_windows, rows_by_domain
from megadga.data.sampler import Selection
from megadga.mixers.base import Mixtures
from megadga.mixers.probing import Probe


class ProbeSequences(Protocol):
    """The sequences that one gradient is measured on, read only where they are needed."""

    def __len__(self) -> int:
        """Return their number ``N``, at least 1."""
        ...

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        ...

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        ...


@dataclass(frozen=True)
class DomainSequences:
    """Sequences of one set; ``ProbeSequences``.

    Attributes:
        domain: Where they come from.
        sequences: Their indices there, shape ``(N,)``, ``N >= 1``.
    """

    domain: SequenceSet
    sequences: IntArray

    def __len__(self) -> int:
        return self.sequences.size

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        return self.domain.windows(self.sequences[rows])

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        return self.domain.num_targets(self.sequences)


@dataclass(frozen=True, eq=False)
class MixtureSequences:
    """Sequences of several domains; ``ProbeSequences``.

    Attributes:
        domains: All domains, ``K`` of them, of one sequence length.
        selection: The sequences, ``N >= 1``.
    """

    domains: Sequence[SequenceSet]
    selection: Selection

    def __len__(self) -> int:
        return len(self.selection)

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        owners, sequences = self.selection.domains, self.selection.sequences
        return read_windows(self.domains, Selection(owners[rows], sequences[rows]))

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        return count_targets(self.domains, self.selection)


@dataclass(frozen=True, eq=False)
class SequenceSubset:
    """A subset of other drawn sequences; ``ProbeSequences``.

    Attributes:
        whole: The others.
        rows: Their places there, shape ``(N,)``, ``N >= 1``.
    """

    whole: ProbeSequences
    rows: IntArray

    def __len__(self) -> int:
        return self.rows.size

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some of the sequences, shape ``(len(rows), S + 1)``."""
        return self.whole.read(self.rows[rows])

    def num_targets(self) -> IntArray:
        """Return how many targets of each sequence are tokens, not padding; shape ``(N,)``."""
        return self.whole.num_targets()[self.rows]


@dataclass(frozen=True, eq=False)
class TrainedBatch:
    """The sequences of one optimizer step; in flight each has ``S`` targets.

    Attributes:
        domains: Domain of each sequence of the global batch, shape ``(B,)``.
        rows: Places there of this rank's sequences, shape ``(accumulation, micro batch)``.
        sequence_length: Targets of each (S).
    """

    domains: IntArray
    rows: IntArray
    sequence_length: int


@final
class PackedSequences:
    """Concatenation of several sets of sequences, so that micro-batches can mix them.

    Args:
        sets: At least one; all of one sequence length.

    Attributes:
        sets_of_rows: Which set each row belongs to, shape ``(N,)``.
        num_targets: Targets of each row that are tokens, shape ``(N,)``.
    """

    def __init__(self, sets: Sequence[ProbeSequences]) -> None:
        self._sets = tuple(sets)
        sizes = np.array([len(drawn) for drawn in sets], dtype=np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self.sets_of_rows = np.repeat(np.arange(len(sets), dtype=np.int64), sizes)
        self.num_targets = np.concatenate([drawn.num_targets() for drawn in sets])

    def read(self, rows: IntArray) -> IntArray:
        """Return the tokens of some rows, in their order, shape ``(len(rows), S + 1)``."""
        owned = list(rows_by_domain(self.sets_of_rows[rows]))
        read = [self._sets[owner].read(rows[own] - self._starts[owner]) for owner, own in owned]
        found = np.concatenate(read)
        tokens = np.empty_like(found)
        tokens[np.concatenate([own for _, own in owned])] = found
        return tokens


@final
class ProbeSequenceSampler:
    """The sequences that updates are measured on.

    Args:
        domains: The training domains, ``K`` of them.
        specific: The specific set; None: domains are compared with their own mean, of all that an
            update draws from them.
        probe: Says how many sequences of each.
        seed: Addresses the streams; they are apart from the training order, so that a measurement
            moves no cursor.
        mixtures: What is measured in the domains' place; None: they are.
        numbers: What addresses the streams of the domains and, last, of the specific set, shape
            ``(K + 1,)``; None: their index.

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
        probe: Probe,
        seed: int,
        mixtures: Mixtures | None = None,
        numbers: IntArray | None = None,
    ) -> None:
        if mixtures is not None and mixtures.num_domains != len(domains):
            raise ValueError(
                f"mixtures: expected some of {len(domains)} domains, found {mixtures.num_domains}"
            )
        if mixtures is not None and specific is None:
            raise ValueError("specific: expected a set to compare mixtures with, found None")
        self._sets = tuple(domains) if specific is None else (*domains, specific)
        self._probe = probe
        sizes = np.array([each.num_sequences for each in self._sets], dtype=np.int64)
        used = None if numbers is None else numbers[: sizes.size]
        self._sampler = ProbeSampler(sizes, seed=seed, numbers=used)
        self._domains, self._mixtures = tuple(domains), mixtures
        self._has_specific = specific is not None
        self.num_measured = len(domains) if mixtures is None else len(mixtures.names)

    def specific(self, update: int) -> DomainSequences:
        """Return an update's sequences of the specific set."""
        assert self._has_specific
        index, count = len(self._domains), self._probe.specific_sequences
        selection = self._sampler.draw(update, index, count)
        return DomainSequences(self._sets[index], selection.sequences)

    def target(self, update: int) -> ProbeSequences:
        """Return the sequences whose gradient the others are compared with in an update."""
        if self._has_specific:
            return self.specific(update)
        # As many of each domain, so that every domain counts once in the mean over all.
        domains = np.arange(len(self._domains))
        count = self._probe.sequences_per_domain
        return MixtureSequences(self._domains, self._sampler.draw_each(update, domains, count))

    def measured(self, update: int, index: int) -> ProbeSequences:
        """Return an update's sequences of one domain, or of one mixture of them."""
        (drawn,) = self.measured_each(update, np.array([index]))
        return drawn

    def all_measured(self, update: int) -> list[ProbeSequences]:
        """Return an update's sequences of every domain, or of every mixture of them."""
        return self.measured_each(update, np.arange(self.num_measured))

    def measured_each(self, update: int, indices: IntArray) -> list[ProbeSequences]:
        """Return an update's sequences of some domains, or of some mixtures of them.

        Args:
            update: Index of the update, from 0.
            indices: In ``[0, num_measured)``, shape ``(n,)``.
        """
        count = self._probe.sequences_per_domain
        if self._mixtures is not None:
            return [self._mixed(update, index, count) for index in indices.tolist()]
        drawn = self._sampler.draw_each(update, indices, count).sequences.reshape(-1, count)
        return [
            DomainSequences(self._domains[index], sequences)
            for index, sequences in zip(indices.tolist(), drawn, strict=True)
        ]

    def _mixed(self, update: int, index: int, count: int) -> MixtureSequences:
        assert self._mixtures is not None
        domains, shares = self._mixtures.row(index)
        selection = self._sampler.draw_mixture(
            update, index, count, domains=domains, shares=shares
        )
        return MixtureSequences(self._domains, selection)
