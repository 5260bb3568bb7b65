"""Writes a domain's folder: its shards and their manifest. Knows token arrays, but no text."""

import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from megadga.arrays import TokenArray
from megadga.errors import ShardError
from megadga.shards.manifest import Manifest, ShardEntry, TokenizerIdentity, write_manifest
from megadga.shards.writer import ShardWriter, best_dtype

SHARD_TOKENS = 1 << 28
MOST_TOKENS = 1 << 62
"""Larger than what fits on disks, and than no 64-bit number."""


def create_domain(
    folder: Path,
    tokenizer: TokenizerIdentity,
    splits: Mapping[str, Iterable[TokenArray]],
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Write a domain's folder, whole or not at all.

    Args:
        folder: Must not exist yet; its name becomes the domain's. Folders above it are made.
        tokenizer: What wrote the tokens.
        splits: Documents in their final order, by split; each ends with EOD.
        shard_tokens: A shard is closed once it holds this many tokens, at least 1.

    Returns:
        What was written.

    Raises:
        ShardError: If the folder exists, or the disk refuses.
        ValueError: If a document is empty or holds a negative id, or ``shard_tokens`` is below 1.
    """
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens: expected at least 1, found {shard_tokens}")
    with created_whole(folder) as partial:
        entries = {
            split: _write_split(partial / split, documents, tokenizer, shard_tokens)
            for split, documents in splits.items()
        }
        manifest = Manifest(folder.name, tokenizer, entries)
        write_manifest(partial, manifest)
    return manifest


@contextmanager
def created_whole(folder: Path) -> Generator[Path]:
    """Make a folder that appears under its name only when the block ends without error.

    Everything goes to a hidden folder beside it, which gets the final name at the end; what an
    interrupted attempt left there is removed first.

    Args:
        folder: Must not exist yet. Folders above it are made.

    Yields:
        The hidden folder.

    Raises:
        ShardError: If the folder exists, or the disk refuses.
    """
    if folder.exists():
        raise ShardError(f"{folder}: expected no folder of this name yet, found one")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise ShardError(f"{folder}: expected to write it, found {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # not there any more if it was renamed


def _write_split(
    path: Path, documents: Iterable[TokenArray], tokenizer: TokenizerIdentity, shard_tokens: int
) -> tuple[ShardEntry, ...]:
    """Write ``PATH-00000``, ``PATH-00001``, ... and return their entries."""
    remaining = iter(documents)
    entries: list[ShardEntry] = []
    for first in remaining:
        prefix = path.with_name(f"{path.name}-{len(entries):05d}")
        with ShardWriter(prefix, best_dtype(tokenizer.vocab_size)) as writer:
            for tokens in _until_full(chain((first,), remaining), shard_tokens):
                writer.add_document(tokens)
        entries.append(writer.entry)
    return tuple(entries)


def _until_full(documents: Iterable[TokenArray], shard_tokens: int) -> Iterator[TokenArray]:
    """Yield documents until they hold ``shard_tokens`` tokens together."""
    total = 0
    for tokens in documents:
        yield tokens
        total += tokens.size
        if total >= shard_tokens:
            return
