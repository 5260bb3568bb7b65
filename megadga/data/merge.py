"""Merges domains into one: their documents one after the other, in new shards."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from megadga.data.create import MAX_SHARD_TOKENS, SHARD_TOKENS, atomic_folder, write_shards
from megadga.data.documents import DocumentBatch, check_index, read_documents
from megadga.data.files import Problems, checksum
from megadga.data.folder import DomainSource, open_shards
from megadga.data.indexed import IndexedShard, best_dtype, ids_path, index_path, tokens_path
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megadga.data.scores import check_same_scorers, read_scores, scorers, write_scores
from megadga.data.targets import TrainedSpans, mark_targets, spans_path
from megadga.errors import ConfigError, ShardError


@dataclass(frozen=True, slots=True)
class MergeSource:
    """A domain to be merged.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all its splits."""
        return sum(map(self.manifest.num_tokens, self.manifest.splits))


def read_merge_sources(folders: Sequence[Path]) -> tuple[MergeSource, ...]:
    """Read the manifests of domains and check that they can be merged.

    Args:
        folders: Folders of single domains, at least one.

    Raises:
        ShardError: If a manifest is missing or damaged, a folder is repeated or grouped, or their
            tokenizers differ.
    """
    sources = tuple(MergeSource(folder, read_manifest(folder)) for folder in folders)
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
    sources: Sequence[MergeSource],
    output: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    drop_ids: bool = False,
    drop_scores: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Manifest:
    """Concatenate several domains into one, written atomically.

    Each split holds the documents of the first domain, then those of the second, and so on.
    Checksums are verified while reading.

    Args:
        sources: Result of ``read_merge_sources``.
        output: The new domain's folder, which must not exist; parent folders are created.
        shard_tokens: A shard is closed once it holds this many tokens, in [1, 2^62].
        drop_ids: Do not copy document ids. Otherwise all shards must have ids, or none.
        drop_scores: Do not copy scores. Otherwise all training shards must have the same ones.
        progress: Called with the tokens written since the last call.

    Returns:
        The manifest.

    Raises:
        ConfigError: If ``shard_tokens`` is out of range.
        ShardError: If the output exists, writing fails, only some shards have ids, scores or
            trained spans, or a shard is missing, damaged, or holds an empty document.
    """
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens: expected at least 1, found {shard_tokens}")
    if shard_tokens > MAX_SHARD_TOKENS:
        raise ConfigError(f"shard_tokens: expected at most 2^62, found {shard_tokens}")
    ids = not drop_ids and _have(sources, "ids_sha256", "ids", "drop all ids or merge others")
    spans = _have(sources, "spans_sha256", "trained spans", "merge dialogues with dialogues alone")
    if not drop_scores:
        named = [(source.folder, source.manifest) for source in sources]
        check_same_scorers(named, advice="drop all scores, and score the merged domain")
    tokenizer = sources[0].manifest.tokenizer
    parts = _open_parts(sources)
    with atomic_folder(output) as partial:
        splits = {
            split: tuple(
                write_shards(
                    partial / split,
                    _read_all(its, ids=ids, progress=progress),
                    dtype=best_dtype(tokenizer.vocab_size),
                    shard_tokens=shard_tokens,
                    ids=ids,
                    spans=spans,
                )
            )
            for split, its in parts.items()
        }
        if not drop_scores and "train" in splits:
            splits["train"] = _merge_scores(partial, splits["train"], sources)
        manifest = Manifest(output.name, tokenizer, splits)
        _check_sums(manifest, sources)
        write_manifest(partial, manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class _Part:
    """A shard to be merged."""

    shard: IndexedShard
    entry: ShardEntry
    vocab_size: int

    def read(self, *, ids: bool) -> Iterator[DocumentBatch]:
        """Yield its documents in batches, with marked targets if the shard has trained spans.

        Raises:
            ShardError: If they are invalid.
        """
        prefix = self.shard.prefix
        index, problems = index_path(prefix), Problems()
        _expect(index, "idx_sha256", self.entry.idx_sha256, _checksum(index))
        if not check_index(self.shard, problems):
            raise ShardError(problems.lines[0])
        if ids:
            path = ids_path(prefix)
            assert self.entry.ids_sha256 is not None, "all shards have ids or none"
            _expect(path, "ids_sha256", self.entry.ids_sha256, _checksum(path))
        spans, position = self._spans(), 0
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
            if spans is not None:
                (trained,) = spans.trained(np.array([position]), documents.tokens.size)
                position += documents.tokens.size
                yield replace(documents, tokens=mark_targets(documents.tokens, trained))
            else:
                yield documents
        _expect(tokens_path(prefix), "bin_sha256", self.entry.bin_sha256, found.hexdigest())

    def _spans(self) -> TrainedSpans | None:
        if self.entry.spans_sha256 is None:
            return None
        path = spans_path(self.shard.prefix)
        _expect(path, "spans_sha256", self.entry.spans_sha256, _checksum(path))
        return TrainedSpans.read(path, self.shard.num_tokens)


def _expect(path: Path, key: str, stated: str, found: str) -> None:
    if found != stated:
        raise ShardError(f"{path}: {key}: expected {stated} by the manifest, found {found}")


def _checksum(path: Path) -> str:
    try:
        return checksum(path)
    except OSError as error:
        raise ShardError(f"{path}: expected a readable file, found {error.strerror}") from error


def _open_parts(sources: Sequence[MergeSource]) -> dict[str, list[_Part]]:
    """Open all shards, by split, so that missing ones are found before any work."""
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


def _have(
    sources: Sequence[MergeSource],
    key: Literal["ids_sha256", "spans_sha256"],
    content: str,
    advice: str,
) -> bool:
    """Return whether all shards have an additional file; raise if only some do."""
    places: dict[bool, Path] = {}
    for source in sources:
        for entries in source.manifest.splits.values():
            for entry in entries:
                if entry.documents:
                    there = getattr(entry, key) is not None
                    places.setdefault(there, source.folder / entry.file)
    if len(places) > 1:
        raise ShardError(
            f"{places[False]}: expected {content} of its documents, as {places[True]} has them, "
            f"found none: {advice}"
        )
    return True in places


def _read_all(
    parts: Iterable[_Part], *, ids: bool, progress: Callable[[int], object]
) -> Iterator[DocumentBatch]:
    for part in parts:
        for documents in part.read(ids=ids):
            yield documents
            progress(documents.tokens.size)


def _merge_scores(
    folder: Path, written: tuple[ShardEntry, ...], sources: Sequence[MergeSource]
) -> tuple[ShardEntry, ...]:
    """Write the scores of the merged training shards; return their entries with them."""
    of_sources = [
        (source.folder, [e for e in source.manifest.splits.get("train", ()) if e.documents])
        for source in sources
    ]
    for name, scorer in scorers([each for _, entries in of_sources for each in entries]).items():
        scores = [read_scores(place, entries, name) for place, entries in of_sources]
        written = write_scores(folder, written, name, scorer, np.concatenate(scores))
    return written


def _check_sums(manifest: Manifest, sources: Sequence[MergeSource]) -> None:
    """Check that the totals of documents and tokens equal those of the sources."""
    for split in manifest.splits:
        read = [source.manifest for source in sources]
        assert manifest.num_documents(split) == sum(one.num_documents(split) for one in read)
        assert manifest.num_tokens(split) == sum(one.num_tokens(split) for one in read)
