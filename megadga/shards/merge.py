"""Makes one domain of several. Knows token arrays, but no text.

Documents are passed on some at a time, in the order in which they come: nothing is shuffled, and
no more than a bounded part of any shard is in memory.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from megadga.errors import ConfigError, ShardError
from megadga.shards.create import MOST_TOKENS, SHARD_TOKENS, created_whole
from megadga.shards.documents import Documents, check_index, read_documents
from megadga.shards.files import checksum
from megadga.shards.folder import DomainSource, open_shards
from megadga.shards.indexed import (
    IndexedShard,
    TokenType,
    ids_path,
    index_path,
    tokens_path,
)
from megadga.shards.manifest import (
    Manifest,
    ShardEntry,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megadga.shards.problems import Problems
from megadga.shards.writer import ShardWriter, best_dtype


@dataclass(frozen=True, slots=True)
class Source:
    """A domain that is going to be merged.

    Attributes:
        folder: Its own.
        manifest: What is in it.
    """

    folder: Path
    manifest: Manifest

    @property
    def num_tokens(self) -> int:
        """Tokens of all its splits."""
        return sum(map(self.manifest.num_tokens, self.manifest.splits))


def read_sources(folders: Sequence[Path]) -> tuple[Source, ...]:
    """Read the manifests of domains and check that they can be merged.

    Args:
        folders: Of one domain each, at least one.

    Raises:
        ShardError: If a manifest is missing or damaged, a folder comes twice or holds many domains
            in shared shards, or their tokenizers differ.
    """
    sources = tuple(Source(folder, read_manifest(folder)) for folder in folders)
    first, seen = sources[0], set[Path]()
    for source in sources:
        path = manifest_path(source.folder)
        if source.folder.resolve() in seen:
            raise ShardError(f"{source.folder}: expected each folder once, found it twice")
        seen.add(source.folder.resolve())
        if source.manifest.grouping is not None:
            raise ShardError(
                f"{path}: grouping: expected one domain, "
                f"found {source.manifest.grouping.domains} in shared shards"
            )
        if source.manifest.tokenizer != first.manifest.tokenizer:
            raise ShardError(
                f"{path}: tokenizer: expected that of {first.folder}, "
                f"{first.manifest.tokenizer}, found {source.manifest.tokenizer}"
            )
    return sources


def merge_domains(
    sources: Sequence[Source],
    output: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    drop_ids: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Manifest:
    """Write one domain with the documents of several, whole or not at all.

    Each split holds that of the first domain, then that of the second, and so on. Every byte that
    is read is compared with its checksum.

    Args:
        sources: What ``read_sources`` gave.
        output: The new domain's folder, which must not exist yet; folders above it are made.
        shard_tokens: A shard is closed once it holds this many tokens, in [1, 2^62].
        drop_ids: Leave out where documents came from, which otherwise all shards must say or none.
        progress: Called with the tokens that have been written since the last call.

    Returns:
        What was written.

    Raises:
        ConfigError: If ``shard_tokens`` is out of range.
        ShardError: If the output exists, the disk refuses, only some shards have ids, or a shard
            is missing, damaged, or holds an empty document.
    """
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens: expected at least 1, found {shard_tokens}")
    if shard_tokens > MOST_TOKENS:
        raise ConfigError(f"shard_tokens: expected at most 2^62, found {shard_tokens}")
    ids = not drop_ids and _have_ids(sources)
    tokenizer = sources[0].manifest.tokenizer
    parts = _open_parts(sources)
    with created_whole(output) as partial:
        splits = {
            split: tuple(
                _write_shards(
                    partial / split,
                    _read_all(its, ids=ids, progress=progress),
                    dtype=best_dtype(tokenizer.vocab_size),
                    shard_tokens=shard_tokens,
                    ids=ids,
                )
            )
            for split, its in parts.items()
        }
        manifest = Manifest(output.name, tokenizer, splits)
        _check_sums(manifest, sources)
        write_manifest(partial, manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class _Part:
    """A shard that is going to be merged."""

    shard: IndexedShard
    entry: ShardEntry
    vocab_size: int

    def read(self, *, ids: bool) -> Iterator[Documents]:
        """Yield its documents, some at a time; what is wrong with them is a ``ShardError``."""
        prefix = self.shard.prefix
        index, problems = index_path(prefix), Problems()
        _expect(index, "idx_sha256", self.entry.idx_sha256, _checksum(index))
        if not check_index(self.shard, problems):
            raise ShardError(problems.lines[0])
        if ids:
            path = ids_path(prefix)
            assert self.entry.ids_sha256 is not None, "all shards have ids or none"
            _expect(path, "ids_sha256", self.entry.ids_sha256, _checksum(path))
        read, found = 0, hashlib.sha256()
        for documents in read_documents(self.shard, ids=ids):
            found.update(documents.tokens.data)
            if (empty := np.flatnonzero(documents.lengths == 0)).size:
                raise ShardError(
                    f"{index}: document {read + int(empty[0])}: "
                    "expected at least one token, found none"
                )
            low, high = int(documents.tokens.min()), int(documents.tokens.max())
            if low < 0 or high >= self.vocab_size:
                raise ShardError(
                    f"{tokens_path(prefix)}: expected ids in [0, {self.vocab_size}), "
                    f"found {low} to {high}"
                )
            read += documents.lengths.size
            yield documents
        _expect(tokens_path(prefix), "bin_sha256", self.entry.bin_sha256, found.hexdigest())


def _expect(path: Path, key: str, stated: str, found: str) -> None:
    if found != stated:
        raise ShardError(f"{path}: {key}: expected {stated} by the manifest, found {found}")


def _checksum(path: Path) -> str:
    try:
        return checksum(path)
    except OSError as error:
        raise ShardError(f"{path}: expected a readable file, found {error.strerror}") from error


def _open_parts(sources: Sequence[Source]) -> dict[str, list[_Part]]:
    """Open all shards, by split, so that one that is missing is missed before the work."""
    parts: dict[str, list[_Part]] = {}
    for source in sources:
        where = DomainSource(source.folder.name, source.folder)
        for split, entries in source.manifest.splits.items():
            shards = open_shards(where, source.manifest, split)
            parts.setdefault(split, []).extend(
                _Part(shard, entry, source.manifest.tokenizer.vocab_size)
                for shard, entry in zip(shards, entries, strict=True)
                if entry.documents or entry.tokens
            )
    return parts


def _have_ids(sources: Sequence[Source]) -> bool:
    """Return whether documents have ids: those of all shards or of none."""
    places: dict[bool, Path] = {}
    for source in sources:
        for entries in source.manifest.splits.values():
            for entry in entries:
                if entry.documents:
                    places.setdefault(entry.ids_sha256 is not None, source.folder / entry.file)
    if len(places) > 1:
        raise ShardError(
            f"{places[False]}: expected ids of its documents, as {places[True]} has them, "
            "found none: drop all ids or merge others"
        )
    return True in places


def _read_all(
    parts: Iterable[_Part], *, ids: bool, progress: Callable[[int], object]
) -> Iterator[Documents]:
    for part in parts:
        for documents in part.read(ids=ids):
            yield documents
            progress(documents.tokens.size)


def _write_shards(
    path: Path,
    batches: Iterator[Documents],
    *,
    dtype: TokenType,
    shard_tokens: int,
    ids: bool,
) -> Iterator[ShardEntry]:
    """Write ``PATH-00000``, ``PATH-00001``, ... and yield their entries."""
    waiting = next(batches, None)
    for number in count():
        if waiting is None:
            return
        room = shard_tokens
        with ShardWriter(path.with_name(f"{path.name}-{number:05d}"), dtype, ids=ids) as writer:
            while waiting is not None and room > 0:
                ends = np.cumsum(waiting.lengths)
                fitting = min(int(np.searchsorted(ends, room)) + 1, ends.size)
                part = waiting.part(0, fitting)
                writer.add_documents(part.tokens, part.lengths, part.ids)
                room -= part.tokens.size
                left = waiting.part(fitting, ends.size)
                waiting = left if left.lengths.size else next(batches, None)
        yield writer.entry


def _check_sums(manifest: Manifest, sources: Sequence[Source]) -> None:
    """Check that every document and every token of the sources has arrived."""
    for split in manifest.splits:
        read = [source.manifest for source in sources]
        assert manifest.num_documents(split) == sum(one.num_documents(split) for one in read)
        assert manifest.num_tokens(split) == sum(one.num_tokens(split) for one in read)
