"""Reads the tokens of planned batches ahead of their use."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.data.stream import TokenStream


class WindowSelection(Protocol):
    """Windows of some domains, row by row."""

    @property
    def domains(self) -> IntArray:
        """Which domain each row is from, shape ``(N,)``."""
        ...

    @property
    def sequences(self) -> IntArray:
        """Which window of that domain each row is, shape ``(N,)``."""
        ...


@dataclass(frozen=True, slots=True)
class _Rows:
    domains: IntArray
    sequences: IntArray


def read_windows(domains: Sequence[SequenceSet], selection: WindowSelection) -> IntArray:
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


@dataclass(frozen=True, eq=False)
class _Read:
    """One rank's rows of a batch: which windows they are, and their tokens, row by row."""

    windows: _Rows
    tokens: IntArray


PendingRead = Future[_Read]
"""A batch that is being read in the background."""


@final
class BatchReader:
    """Reads one rank's rows of global batches, one after the other, in one background thread.

    The thread comes with the first batch and stays until ``close``.

    Args:
        domains: All domains, of one sequence length S; at least one.
        rows: This rank's rows of a global batch, any shape, for example
            ``(accumulation, micro batch)``.
    """

    def __init__(self, domains: Sequence[SequenceSet], *, rows: IntArray) -> None:
        self._domains = tuple(domains)
        self._rows = rows
        self._executor: ThreadPoolExecutor | None = None

    def begin(
        self, selection: Callable[[], WindowSelection], *, guess: PendingRead | None = None
    ) -> PendingRead:
        """Have a batch read after those that were begun before, and return at once.

        Args:
            selection: Returns the windows of the global batch; called in the thread.
            guess: An earlier reading of what this batch was expected to be: windows that it has
                are not read again. It may be wrong, have failed or not have begun; all the same.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="megadga-reader")
        return self._executor.submit(self._read, selection, guess)

    def tokens(self, reading: PendingRead) -> IntArray:
        """Wait for a batch; return this rank's token ids, shape ``rows.shape + (S + 1,)``.

        Raises:
            ShardError: If a shard has changed or holds an id outside the vocabulary.
        """
        return reading.result().tokens.reshape(*self._rows.shape, -1)

    def close(self) -> None:
        """End the thread; readings that have not begun never do."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _read(self, selection: Callable[[], WindowSelection], guess: PendingRead | None) -> _Read:
        selected, rows = selection(), self._rows.ravel()
        wanted = _Rows(selected.domains[rows], selected.sequences[rows])
        # What was begun before is over by now, in one way or another.
        if guess is None or guess.cancel() or guess.exception() is not None:
            return _Read(wanted, read_windows(self._domains, wanted))
        found = guess.result()
        places = _places(found.windows, wanted)
        missing = places < 0
        tokens = found.tokens[places]
        if missing.any():
            rest = _Rows(wanted.domains[missing], wanted.sequences[missing])
            tokens[missing] = read_windows(self._domains, rest)
        return _Read(wanted, tokens)


def _places(found: _Rows, wanted: _Rows) -> IntArray:
    """Return in which row of ``found`` each row of ``wanted`` is; -1: in none."""
    known = {window: row for row, window in enumerate(_pairs(found))}
    return np.array([known.get(window, -1) for window in _pairs(wanted)], dtype=np.int64)


def _pairs(rows: _Rows) -> Iterator[tuple[int, int]]:
    return zip(rows.domains.tolist(), rows.sequences.tolist(), strict=True)
