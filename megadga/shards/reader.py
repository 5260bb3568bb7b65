"""Turns selections into tokens, ahead of their use. Knows neither samplers nor ranks."""

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from megadga.arrays import IntArray
from megadga.shards.domain import Domain
from megadga.shards.sequences import SequenceSet
from megadga.shards.stream import TokenStream


class Selected(Protocol):
    """Windows of some domains, row by row."""

    @property
    def domains(self) -> IntArray:
        """Which domain each row is from, shape ``(N,)``."""
        ...

    @property
    def sequences(self) -> IntArray:
        """Which window of that domain each row is, shape ``(N,)``."""
        ...


class Planned(Protocol):
    """What a batch is to consist of."""

    @property
    def selection(self) -> Selected:
        """The windows of the global batch."""
        ...


PlanT = TypeVar("PlanT", bound=Planned)


@dataclass(frozen=True, slots=True)
class _Rows:
    domains: IntArray
    sequences: IntArray


def read_windows(domains: Sequence[SequenceSet], selection: Selected) -> IntArray:
    """Return the tokens of a selection.

    Domains that lie in one stream are read together, so that no file is opened once a domain.

    Args:
        domains: All domains, of one sequence length S; at least one.
        selection: N windows.

    Returns:
        Token ids, shape ``(N, S + 1)``.

    Raises:
        IndexError: If a domain or a window does not exist.
        ShardError: If a shard has changed or holds an id outside the vocabulary.
    """
    owners, width = selection.domains, domains[0].sequence_length + 1
    if owners.size and not 0 <= owners.min() <= owners.max() < len(domains):
        raise IndexError(
            f"expected domains in [0, {len(domains)}), found {owners.min()} to {owners.max()}"
        )
    tokens = np.empty((owners.size, width), dtype=np.int64)
    streams: defaultdict[TokenStream, list[tuple[IntArray, IntArray]]] = defaultdict(list)
    for index, rows in _rows_by_domain(owners):
        domain, indices = domains[index], selection.sequences[rows]
        if isinstance(domain, Domain):
            streams[domain.stream].append((rows, domain.positions(indices)))
        else:
            tokens[rows] = domain.windows(indices)
    for stream, parts in streams.items():
        rows = np.concatenate([rows for rows, _ in parts])
        tokens[rows] = stream.gather(np.concatenate([starts for _, starts in parts]), width)
    return tokens


def _rows_by_domain(owners: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield each domain that occurs, with the rows in which it does."""
    order = owners.argsort(kind="stable")
    begins = np.flatnonzero(np.diff(owners[order], prepend=-1))
    for low, high in pairwise((*begins.tolist(), owners.size)):
        yield int(owners[order[low]]), order[low:high]


class BatchReader:
    """Reads one rank's rows of each global batch, a bounded number of batches ahead.

    Args:
        domains: All domains, of one sequence length S; at least one.
        rows: This rank's rows of a global batch, any shape, for example
            ``(accumulation, micro batch)``.
        prefetch: Batches that may be read before they are asked for, at least 1.

    Raises:
        ValueError: If ``prefetch`` is below 1.
    """

    def __init__(
        self, domains: Sequence[SequenceSet], *, rows: IntArray, prefetch: int = 2
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch: expected at least 1, found {prefetch}")
        self._domains = tuple(domains)
        self._rows = rows
        self._prefetch = prefetch

    def stream(self, plans: Iterable[PlanT]) -> Generator[tuple[PlanT, IntArray]]:
        """Yield each plan with its tokens, in order, while one background thread reads the next.

        Plans are taken in the caller's thread, never more than ``prefetch`` ahead of the batch
        that was last asked for, and never past the end of ``plans``: where the weights change
        next, let the iterable end. When the iterator ends, fails or is closed, the thread has
        ended too.

        Args:
            plans: Each with the windows of one global batch.

        Yields:
            The plan and this rank's token ids, shape ``rows.shape + (S + 1,)``.

        Raises:
            ShardError: If a shard has changed or holds an id outside the vocabulary.
        """
        pending: deque[tuple[PlanT, Future[IntArray]]] = deque()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="megadga-reader")
        try:
            for plan in plans:
                pending.append((plan, executor.submit(self._read, plan.selection)))
                if len(pending) > self._prefetch:
                    ready, tokens = pending.popleft()
                    yield ready, tokens.result()
            while pending:
                ready, tokens = pending.popleft()
                yield ready, tokens.result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _read(self, selection: Selected) -> IntArray:
        rows = self._rows.ravel()
        tokens = read_windows(
            self._domains, _Rows(selection.domains[rows], selection.sequences[rows])
        )
        return tokens.reshape(*self._rows.shape, -1)
