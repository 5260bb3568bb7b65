"""A domain: part of a token stream, cut into training sequences (windows).

Of dialogues only some tokens are targets, the assistant's turns. Their windows are cut as those of
texts are; one without any target, as of a long question, is no sequence.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.manifest import TokenizerIdentity
from megadga.data.stream import TokenStream
from megadga.data.targets import TrainedSpans


class SequenceSet(Protocol):
    """Documents as sequences of ``S + 1`` tokens: ``S`` inputs, and targets shifted by one."""

    @property
    def name(self) -> str:
        """Name of the set in metrics and weights."""
        ...

    @property
    def folder(self) -> Path:
        """Folder of its shards."""
        ...

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """Tokenizer that produced the tokens."""
        ...

    @property
    def sequence_length(self) -> int:
        """Targets per full sequence (S), at least 1."""
        ...

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        ...

    @property
    def num_tokens(self) -> int:
        """Number of tokens, padding excluded."""
        ...

    @property
    def num_sequences(self) -> int:
        """Number of sequences, at least 1."""
        ...

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences.

        Args:
            indices: Sequence indices in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, with ``PADDING`` after the end of a short document, and tokens that are no
            targets as ``INPUT_ONLY - id`` (see ``targets``), shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        ...

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return the number of targets that are trained, in ``[1, S]``, shape ``(n,)``.

        A sequence's loss is the mean over these.

        Args:
            indices: Sequence indices in ``[0, num_sequences)``, shape ``(n,)``.
        """
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrainedWindows:
    """The windows of a range of a stream that have a target, in runs of consecutive ones.

    There are at most as many runs as spans, and only one where every window has a target.

    Attributes:
        firsts: First window of each run, ascending, shape ``(runs,)``.
        before: Windows in the runs before each, and in all of them, shape ``(runs + 1,)``.
    """

    firsts: IntArray
    before: IntArray

    @classmethod
    def find(
        cls, spans: TrainedSpans, begin: int, end: int, sequence_length: int
    ) -> "TrainedWindows":
        """Return the windows in ``[begin, end)`` of a stream with a trained token as a target.

        Args:
            spans: The trained spans of the stream.
            begin: First position of the range.
            end: Position after the last one.
            sequence_length: S, at least 1.
        """
        first = begin + 1  # the first token of a window is no target
        stop = first + (end - first) // sequence_length * sequence_length
        low = int(np.searchsorted(spans.bounds[:, 1], first, side="right"))
        high = max(low, int(np.searchsorted(spans.bounds[:, 0], stop)))
        targets = np.clip(spans.bounds[low:high], first, stop)
        firsts = (targets[:, 0] - first) // sequence_length
        lasts = (targets[:, 1] - 1 - first) // sequence_length
        starts = np.flatnonzero(firsts > np.concatenate(([-2], lasts[:-1])) + 1)
        ends = np.append(starts[1:], firsts.size) - 1
        counts = lasts[ends] - firsts[starts] + 1 if starts.size else starts
        return cls(firsts[starts], np.concatenate(([0], np.cumsum(counts, dtype=np.int64))))

    def __len__(self) -> int:
        return int(self.before[-1])

    def windows(self, indices: IntArray) -> IntArray:
        """Return the window of each index in ``[0, len)``, shape ``(n,)``."""
        run = np.searchsorted(self.before, indices, side="right") - 1
        return self.firsts[run] + indices - self.before[run]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """A range of a token stream, cut into windows of ``S + 1`` tokens; a ``SequenceSet``.

    Window ``j`` is tokens ``[jS, jS + S]`` of the range. Consecutive windows share one token: the
    last target of one is the first input of the next. Offsets are computed; no index is stored.

    If the stream has trained spans, tokens outside of them are inputs and no targets (see
    ``targets``), and the sequences are the windows with at least one target, in order: every
    trained token is a target once in an epoch, and no pass is spent on a window without a loss.

    Attributes:
        name: Name of the domain in metrics and weights.
        stream: The token stream.
        begin: First position of the range in the stream.
        end: Position after the last one.
        num_documents: Number of documents.
        sequence_length: S, at least 1.
        trained: The windows with a target, of a stream with trained spans; None: all windows.

    Raises:
        ValueError: If the range is not inside the stream or is shorter than one window, or no
            window has a target.
    """

    name: str
    stream: TokenStream
    begin: int
    end: int
    num_documents: int
    sequence_length: int
    trained: TrainedWindows | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= self.stream.num_tokens:
            raise ValueError(
                f"{self.name}: expected a range inside [0, {self.stream.num_tokens}), "
                f"found [{self.begin}, {self.end})"
            )
        if self.end - self.begin <= self.sequence_length or self.sequence_length < 1:
            raise ValueError(
                f"{self.name}: expected at least {self.sequence_length + 1} >= 2 tokens, "
                f"found {self.num_tokens}"
            )
        if (self.trained is None) != (self.stream.spans is None) or self.num_sequences < 1:
            raise ValueError(
                f"{self.name}: expected windows with targets where the stream has trained spans, "
                f"found {None if self.trained is None else len(self.trained)}"
            )

    @property
    def folder(self) -> Path:
        """Folder of its shards."""
        return self.stream.folder

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """Tokenizer that produced the tokens."""
        return self.stream.tokenizer

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.begin

    @property
    def num_windows(self) -> int:
        """Number of windows, ``(num_tokens - 1) // S``; up to ``S`` trailing tokens are unused."""
        return (self.end - self.begin - 1) // self.sequence_length

    @property
    def num_sequences(self) -> int:
        """Number of windows with a target: all, unless there are trained spans."""
        return self.num_windows if self.trained is None else len(self.trained)

    @property
    def num_epoch_tokens(self) -> int:
        """Number of tokens that an epoch is of: all, but for windows without a target."""
        if self.trained is None:
            return self.num_tokens
        return self.num_sequences * self.sequence_length

    @property
    def num_trained(self) -> int:
        """Number of tokens in trained spans; all tokens, if there are none."""
        if self.stream.spans is None:
            return self.num_tokens
        low, high = self.stream.spans.num_before(np.array([self.begin, self.end])).tolist()
        return high - low

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some windows.

        Args:
            indices: Sequence indices in ``[0, num_sequences)``, in any order, shape ``(n,)``.

        Returns:
            Token ids, marked as inputs alone outside of trained spans, shape ``(n, S + 1)``.

        Raises:
            IndexError: If an index is out of range.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        return self.stream.gather(self.positions(indices), self.sequence_length + 1)

    def positions(self, indices: IntArray) -> IntArray:
        """Return the stream positions at which sequences begin, shape ``(n,)``.

        Raises:
            IndexError: If an index is out of range.
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_sequences:
            raise IndexError(
                f"{self.name}: expected windows in [0, {self.num_sequences}), "
                f"found {indices.min()} to {indices.max()}"
            )
        windows = indices if self.trained is None else self.trained.windows(indices)
        return self.begin + windows * self.sequence_length

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return the number of targets of each sequence; see ``SequenceSet``. Reads no tokens."""
        if self.stream.spans is None:
            return np.full(indices.shape, self.sequence_length, dtype=np.int64)
        first = self.positions(indices) + 1
        num_before = self.stream.spans.num_before
        return num_before(first + self.sequence_length) - num_before(first)

    def tokens(self, start: int, stop: int) -> TokenArray:
        """Return the tokens in ``[start, stop)``, counted from the domain's first token.

        Args:
            start: In ``[0, stop]``.
            stop: At most ``num_tokens``.

        Returns:
            Token ids as they are stored, shape ``(stop - start,)``.

        Raises:
            IndexError: If the range is not inside the domain.
            ShardError: If an id is not in ``[0, vocab_size)``, or a file is missing or truncated.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(
                f"{self.name}: expected 0 <= start <= stop <= {self.num_tokens}, "
                f"found {start} and {stop}"
            )
        return self.stream.tokens(self.begin + start, self.begin + stop)


def trains_all_tokens(sequences: SequenceSet) -> bool:
    """Tell whether each sequence of a set has ``S`` targets: windows without trained spans."""
    return isinstance(sequences, Domain) and sequences.trained is None
