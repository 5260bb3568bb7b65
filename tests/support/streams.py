"""Domains whose tokens count upwards, so that a window shows where it was cut from the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.create import create_domain
from megadga.data.manifest import (
    Bounds,
    Grouping,
    TokenizerIdentity,
    write_grouping,
    write_manifest,
)

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


def grouped_folder(
    folder: Path,
    splits: Mapping[str, Mapping[str, Sequence[int]]],
    *,
    shard_tokens: int = 1 << 20,
) -> Path:
    """Write domains that share shards: lengths of each one's documents, by split and by name.

    Each split's stream counts upwards from 0, through all domains.
    """
    documents = {
        split: counting_documents([length for lengths in domains.values() for length in lengths])
        for split, domains in splits.items()
    }
    manifest = create_domain(folder, IDENTITY, documents, shard_tokens=shard_tokens)
    bounds = {
        split: Bounds(
            tokens=_bounds([sum(lengths) for lengths in domains.values()]),
            documents=_bounds([len(lengths) for lengths in domains.values()]),
        )
        for split, domains in splits.items()
    }
    entry = write_grouping(folder, Grouping(tuple(splits["train"]), bounds))
    write_manifest(folder, replace(manifest, grouping=entry))
    return folder


def _bounds(counts: Sequence[int]) -> IntArray:
    return np.cumsum([0, *counts], dtype=np.int64)
