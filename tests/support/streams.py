"""Domains whose tokens count upwards, so that a window shows where it was cut from the stream."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.shards.create import create_domain
from megadga.shards.manifest import TokenizerIdentity

IDENTITY = TokenizerIdentity(kind="sentencepiece", fingerprint="f" * 64, vocab_size=50_000, eod=2)


def counting_documents(lengths: Sequence[int], *, start: int = 0) -> list[TokenArray]:
    """Documents of these lengths over the stream start, start + 1, ..."""
    bounds = np.cumsum([0, *lengths])
    stream = np.arange(start, start + bounds[-1])
    return [stream[low:high] for low, high in pairwise(bounds)]


def counting_domain(
    folder: Path,
    lengths: Sequence[int],
    *,
    start: int = 0,
    shard_tokens: int = 1 << 20,
    identity: TokenizerIdentity = IDENTITY,
) -> Path:
    """Write a domain that has a train split only."""
    documents = counting_documents(lengths, start=start)
    create_domain(folder, identity, {"train": documents}, shard_tokens=shard_tokens)
    return folder
