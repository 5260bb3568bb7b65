"""Prefetches the tokens of planned batches."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import Domain, SequenceSet, trains_all_tokens
from megadga.data.stream import TokenStream


class WindowSelection(Protocol):
    """Windows of several domains, one per row."""

    @property
    def domains(self) -> IntArray:
        """Domain of each row, shape ``(N,)``."""
        ...

    @property
    def sequences(self) -> IntArray:
        """Window index inside that domain, shape ``(N,)``."""
        ...


@dataclass(frozen=True, slots=True)
class _WindowRows:
    domains: IntArray
    sequences: IntArray


def read_windows(domains: Sequence[SequenceSet], selection: WindowSelection) -> IntArray:
    """Return the tokens of a selection.

    Domains of one stream are read together, so that its files are not opened once per domain.

    Args:
        domains: All domains, with the same sequence length S; at least one.
        selection: N windows.

    Returns:
        Token ids, shape ``(N, S + 1)``.

    Raises:
        IndexError: If a domain or a window does not exist.
        ShardError: If a shard has changed or holds an id outside the vocabulary.
    """
    row_domains, width = selection.domains, domains[0].sequence_length + 1
    if row_domains.size and not 0 <= row_domains.min() <= row_domains.max() < len(domains):
        raise IndexError(
            f"expected domains in [0, {len(domains)}), "
            f"found {row_domains.min()} to {row_domains.max()}"
        )
    tokens = np.empty((row_domains.size, width), dtype=np.int64)
    streams: defaultdict[TokenStream, list[tuple[IntArray, IntArray]]] = defaultdict(list)
    for index, rows in rows_by_domain(row_domains):
        domain, indices = domains[index], selection.sequences[rows]
        if isinstance(domain, Domain):
            streams[domain.stream].append((rows, domain.positions(indices)))
        else:
            tokens[rows] = domain.windows(indices)
    for stream, parts in streams.items():
        rows = np.concatenate([rows for rows, _ in parts])
        tokens[rows] = stream.gather(np.concatenate([starts for _, starts in parts]), width)
    return tokens


def count_targets(domains: Sequence[SequenceSet], selection: WindowSelection) -> IntArray:
    """Return the number of targets of each sequence of a selection, in ``[1, S]``, shape ``(N,)``.

    Computed from trained spans and lengths, which every rank has: no token is read.

    Args:
        domains: All domains, with the same sequence length S; at least one.
        selection: N windows, of existing domains.
    """
    length = domains[0].sequence_length
    counts = np.full(selection.domains.size, length, dtype=np.int64)
    for index, rows in rows_by_domain(selection.domains):
        if not trains_all_tokens(domains[index]):
            counts[rows] = domains[index].num_targets(selection.sequences[rows])
    return counts


def rows_by_domain(row_domains: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield each domain that occurs, ascending, with its rows in their order.

    Args:
        row_domains: Domain of each row, at least 0, shape ``(N,)``, ``N >= 1``.
    """
    order = row_domains.argsort(kind="stable")
    begins = np.flatnonzero(np.diff(row_domains[order], prepend=-1))
    for low, high in pairwise((*begins.tolist(), row_domains.size)):
        yield int(row_domains[order[low]]), order[low:high]


@dataclass(frozen=True, eq=False)
class _ReadRows:
    """One rank's rows of a batch: their windows and tokens."""

    windows: _WindowRows
    tokens: IntArray


PendingRead = Future[_ReadRows]
"""A batch that is read in the background."""


@final
class BatchReader:
    """Reads one rank's rows of global batches in a background thread, in order.

    The thread starts with the first batch and runs until ``close``.

    Args:
        domains: All domains, with the same sequence length S; at least one.
        rows: This rank's rows of a global batch, of any shape, for example
            ``(accumulation, micro batch)``.
    """

    def __init__(self, domains: Sequence[SequenceSet], *, rows: IntArray) -> None:
        self._domains = tuple(domains)
        self._rows = rows
        self._executor: ThreadPoolExecutor | None = None

    def submit(
        self, selection: Callable[[], WindowSelection], *, speculative: PendingRead | None = None
    ) -> PendingRead:
        """Schedule the read of a batch and return immediately.

        Args:
            selection: Returns the windows of the global batch; called in the thread.
            speculative: An earlier read of the predicted batch, whose windows are reused. It may
                differ from the batch, have failed or not have started.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="megadga-reader")
        return self._executor.submit(self._read, selection, speculative)

    def tokens(self, reading: PendingRead) -> IntArray:
        """Wait for a batch; return this rank's token ids, shape ``rows.shape + (S + 1,)``.

        Raises:
            ShardError: If a shard has changed or holds an id outside the vocabulary.
        """
        return reading.result().tokens.reshape(*self._rows.shape, -1)

    def close(self) -> None:
        """Stop the thread; pending reads are cancelled."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _read(
        self, selection: Callable[[], WindowSelection], speculative: PendingRead | None
    ) -> _ReadRows:
        selected, rows = selection(), self._rows.ravel()
        wanted = _WindowRows(selected.domains[rows], selected.sequences[rows])
        # The thread runs reads in order, so the speculative one is finished or cancelled by now.
        if speculative is None or speculative.cancel() or speculative.exception() is not None:
            return _ReadRows(wanted, read_windows(self._domains, wanted))
        found = speculative.result()
        rows_found = _find_rows(found.windows, wanted)
        missing = rows_found < 0
        tokens = found.tokens[rows_found]
        if missing.any():
            rest = _WindowRows(wanted.domains[missing], wanted.sequences[missing])
            tokens[missing] = read_windows(self._domains, rest)
        return _ReadRows(wanted, tokens)


def _find_rows(found: _WindowRows, wanted: _WindowRows) -> IntArray:
    """Return, for each row of ``wanted``, its row in ``found``, or -1."""
    known = {window: row for row, window in enumerate(_pairs(found))}
    return np.array([known.get(window, -1) for window in _pairs(wanted)], dtype=np.int64)


def _pairs(rows: _WindowRows) -> Iterator[tuple[int, int]]:
    return zip(rows.domains.tolist(), rows.sequences.tolist(), strict=True)
