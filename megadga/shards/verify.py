"""Reads whole shards to see what opening them cannot: checksums, gaps, ids. Knows no tokenizer."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from megadga.errors import ShardError
from megadga.shards.indexed import IndexedShard, index_path, tokens_path
from megadga.shards.manifest import ShardEntry, manifest_path, read_manifest

CHUNK_TOKENS = 1 << 24


def measure_shard(prefix: Path) -> ShardEntry:
    """Return the manifest entry of a shard, of whatever origin, from its files.

    Raises:
        ShardError: If a file is missing or damaged, or its sentences leave gaps.
    """
    shard = IndexedShard.open(prefix)
    num_tokens = int(shard.lengths.sum(dtype="i8"))
    tokens = shard.tokens
    chunks = (tokens[start : start + CHUNK_TOKENS] for start in range(0, num_tokens, CHUNK_TOKENS))
    return ShardEntry(
        file=prefix.name,
        documents=shard.document_bounds.size - 1,
        tokens=num_tokens,
        max_token=max((int(chunk.max()) for chunk in chunks), default=-1),
        bin_sha256=_checksum(tokens_path(prefix)),
        idx_sha256=_checksum(index_path(prefix)),
    )


def verify_domain(folder: Path) -> None:
    """Check every byte of a domain's shards against its manifest.

    Raises:
        ShardError: If a shard is missing or damaged; names the shard and the key that differs.
    """
    for split, entries in read_manifest(folder).splits.items():
        for entry in entries:
            found = asdict(measure_shard(folder / entry.file))
            for key, expected in asdict(entry).items():
                if found[key] != expected:
                    raise ShardError(
                        f"{folder / entry.file}: {key}: expected {expected} by {split} of "
                        f"{manifest_path(folder)}, found {found[key]}"
                    )


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
