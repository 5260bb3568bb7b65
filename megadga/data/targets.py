"""Which tokens of a sequence are targets: padding, tokens that are inputs alone, trained spans.

A sequence of ``S + 1`` ids says of each of its tokens whether the loss is taken on it. An id from
0 on is an input, and a target for what precedes it. A token that is an input but no target, as
what a user says in a dialogue, is stored as ``INPUT_ONLY - id``; padding is neither. In shards
these are plain ids, and a file beside them has the spans of the trained ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray, TokenArray
from megadga.errors import ShardError

PADDING = -100
"""Fills a sequence after the end of its document. Not a token id: ``cross_entropy`` of torch
ignores such targets by default, and a model must not look it up in its embedding."""


INPUT_ONLY = PADDING - 1
"""A token ``id`` that is an input but no target is ``INPUT_ONLY - id``, below ``PADDING``."""


MARKED_TYPE = np.dtype("<i4")
"""Holds marked ids on disk, of any vocabulary below 2^31 - 101."""


BoolArray = NDArray[np.bool_]


def mark_targets(ids: TokenArray, trained: BoolArray) -> IntArray:
    """Return ids of which those that are not trained are marked as inputs alone.

    Args:
        ids: Token ids from 0 on, of any shape.
        trained: Whether each is a target, same shape.
    """
    wide = ids.astype(np.int64)
    return np.where(trained, wide, INPUT_ONLY - wide)


def unmark_targets(tokens: TokenArray) -> tuple[TokenArray, BoolArray]:
    """Return what ``mark_targets`` was given; padding is not allowed."""
    trained = tokens >= 0
    return np.where(trained, tokens, INPUT_ONLY - tokens), trained


SPAN_BYTES = 16


def spans_path(prefix: Path) -> Path:
    """Return the path of a shard's trained spans, pairs of int64; the prefix may contain dots."""
    return Path(f"{prefix}.spans")


def find_spans(trained: BoolArray, starts: IntArray) -> IntArray:
    """Return the spans of consecutive trained tokens, none of which spans two documents.

    Args:
        trained: Whether each token is trained, shape ``(n,)``.
        starts: The first token of each document, ascending from 0.

    Returns:
        First token of each span and the one after its last, shape ``(spans, 2)``.
    """
    begins = trained.copy()
    begins[1:] &= ~trained[:-1]
    begins[starts] = trained[starts]
    ends = trained.copy()
    ends[:-1] &= ~trained[1:]
    ends[starts[1:] - 1] = trained[starts[1:] - 1]
    return np.stack((np.flatnonzero(begins), np.flatnonzero(ends) + 1), axis=1)


def read_spans(path: Path) -> IntArray:
    """Read a ``.spans`` file, shape ``(spans, 2)``; what is in it is not checked.

    Raises:
        ShardError: If it is missing, or its size is no multiple of that of a span.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: expected trained spans, found {error.strerror}") from error
    if len(content) % SPAN_BYTES:
        raise ShardError(
            f"{path}: expected a multiple of {SPAN_BYTES} bytes, found {len(content)}"
        )
    return np.frombuffer(content, dtype="<i8").astype(np.int64, copy=False).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class TrainedSpans:
    """The trained tokens of a shard, or of several as one stream.

    Attributes:
        bounds: First token of each span and the one after its last, shape ``(spans, 2)``; the
            spans are not empty, ascend, and do not overlap.
    """

    bounds: IntArray

    @classmethod
    def read(cls, path: Path, num_tokens: int) -> "TrainedSpans":
        """Read a shard's ``.spans``.

        Args:
            path: The file.
            num_tokens: Tokens of the shard.

        Raises:
            ShardError: If it is missing or damaged; names the first wrong span.
        """
        bounds = read_spans(path)
        if (wrong := find_wrong_spans(bounds, num_tokens)).size:
            raise ShardError(f"{path}: {describe_span(bounds, num_tokens, int(wrong[0]))}")
        return cls(bounds)

    @classmethod
    def join(cls, spans: Sequence["TrainedSpans"], starts: IntArray) -> "TrainedSpans":
        """Return the trained tokens of consecutive shards, by position in their stream.

        Args:
            spans: Of each shard; at least one.
            starts: Position in the stream at which each shard starts, shape ``(len(spans),)``.
        """
        shifted = [each.bounds + start for each, start in zip(spans, starts, strict=True)]
        # Searching a column that is not contiguous would copy it for each batch.
        return cls(np.asfortranarray(np.concatenate(shifted)))

    @cached_property
    def _before(self) -> IntArray:
        """Trained tokens before the end of each span, from 0 on; shape ``(spans + 1,)``."""
        return np.concatenate(([0], np.cumsum(self.bounds[:, 1] - self.bounds[:, 0])))

    @cached_property
    def _stops(self) -> IntArray:
        """Position after the last token of each span, from 0 on; shape ``(spans + 1,)``."""
        return np.concatenate(([0], self.bounds[:, 1]))

    @property
    def num_tokens(self) -> int:
        """Number of trained tokens."""
        return int(self._before[-1])

    def num_before(self, positions: IntArray) -> IntArray:
        """Return the number of trained tokens before each position."""
        index = np.searchsorted(self.bounds[:, 0], positions, side="right")
        return self._before[index] - np.maximum(self._stops[index] - positions, 0)

    def trained(self, starts: IntArray, count: int) -> BoolArray:
        """Return which of ``count`` tokens from each position on are trained, ``(n, count)``."""
        positions = starts[:, None] + np.arange(count)
        index = np.searchsorted(self.bounds[:, 0], positions, side="right")
        return positions < self._stops[index]


def find_wrong_spans(bounds: IntArray, num_tokens: int) -> IntArray:
    """Return which spans are empty, overlap the one before, or are not inside the shard."""
    before = np.concatenate(([0], bounds[:-1, 1])) if len(bounds) else np.empty(0, np.int64)
    low, high = bounds[:, 0], bounds[:, 1]
    return np.flatnonzero((low < before) | (high <= low) | (high > num_tokens))


def describe_span(bounds: IntArray, num_tokens: int, index: int) -> str:
    """Return a line on a span that is wrong, without its file."""
    least = int(bounds[index - 1, 1]) if index else 0
    return (
        f"span {index}: expected {max(least, 0)} <= start < stop <= {num_tokens}, "
        f"found {bounds[index, 0]} and {bounds[index, 1]}"
    )
