"""Writes, adopts and merges folders of shards with their manifests."""

import hashlib
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path
from typing import Literal

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.documents import DocumentBatch, check_index, read_documents
from megadga.data.files import Problems, checksum
from megadga.data.folder import DomainSource, open_shards
from megadga.data.indexed import (
    IndexedShard,
    ShardWriter,
    TokenType,
    best_dtype,
    ids_path,
    index_path,
    tokens_path,
)
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megadga.data.scores import check_same_scorers, read_scores, scorers, write_scores
from megadga.data.targets import TrainedSpans, mark_targets, spans_path
from megadga.data.verify import scan_shard
from megadga.errors import ConfigError, ShardError

SHARD_TOKENS = 1 << 28


MAX_SHARD_TOKENS = 1 << 62
"""Upper bound that fits into 64-bit arithmetic."""


def create_domain(
    folder: Path,
    tokenizer: TokenizerIdentity,
    splits: Mapping[str, Iterable[TokenArray]],
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Write a domain's folder atomically.

    Args:
        folder: Must not exist; its name becomes the domain's. Parent folders are created.
        tokenizer: Tokenizer that produced the tokens.
        splits: Documents in their final order, by split; each ends with EOD.
        shard_tokens: A shard is closed once it holds this many tokens, at least 1.

    Returns:
        The manifest.

    Raises:
        ShardError: If the folder exists, or writing fails.
        ValueError: If a document is empty or holds a negative id, or ``shard_tokens`` is below 1.
    """
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens: expected at least 1, found {shard_tokens}")
    with atomic_folder(folder) as partial:
        entries = {
            split: _write_split(partial / split, documents, tokenizer, shard_tokens)
            for split, documents in splits.items()
        }
        manifest = Manifest(folder.name, tokenizer, entries)
        write_manifest(partial, manifest)
    return manifest


@contextmanager
def atomic_folder(folder: Path) -> Generator[Path]:
    """Create a folder that gets its final name only if the block ends without error.

    Everything is written to a hidden folder beside it, which is renamed at the end. Leftovers of
    an interrupted attempt are removed first.

    Args:
        folder: Must not exist. Parent folders are created.

    Yields:
        The temporary folder.

    Raises:
        ShardError: If the folder exists, or writing fails.
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
        shutil.rmtree(partial, ignore_errors=True)  # does nothing after the rename


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
    """Yield documents until they hold ``shard_tokens`` tokens in total."""
    total = 0
    for tokens in documents:
        yield tokens
        total += tokens.size
        if total >= shard_tokens:
            return


@dataclass(frozen=True, slots=True)
class AdoptionResult:
    """Result of adopting a folder.

    Attributes:
        manifest: The manifest that was written.
        without_eod: Number of documents that do not end in EOD.
    """

    manifest: Manifest
    without_eod: int


def adopt_shards(
    folder: Path,
    tokenizer: TokenizerIdentity,
    *,
    valid: str | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> AdoptionResult:
    """Write the manifest of a folder of existing shards, after reading all of them.

    The shards become the training split in the natural order of their names, ``web_2`` before
    ``web_10``. They are not modified.

    Args:
        folder: Their folder; its name becomes the domain's.
        tokenizer: The tokenizer of their tokens; all ids must be in its vocabulary.
        valid: Shards whose name, without ``.idx``, matches this pattern become the validation
            split; None: there is no validation split.
        progress: Called with the bytes of tokens read since the last call.

    Raises:
        ShardError: If the folder already has a manifest, a split has no tokens, no name matches
            ``valid``, or a shard is damaged or holds an id outside the vocabulary.
    """
    if manifest_path(folder).exists():
        raise ShardError(f"{manifest_path(folder)}: expected no manifest yet, found one")
    scans = {
        split: [_scan(folder / name, tokenizer, progress) for name in names]
        for split, names in _divide(folder, valid).items()
    }
    splits = {split: tuple(entry for entry, _ in found) for split, found in scans.items()}
    for split, entries in splits.items():
        if not any(entry.tokens for entry in entries):
            names = ", ".join(entry.file for entry in entries)
            raise ShardError(f"{folder}: expected tokens for {split}, found none in {names}")
    manifest = Manifest(folder.resolve().name, tokenizer, splits)
    try:
        write_manifest(folder, manifest)
    except OSError as error:
        path = manifest_path(folder)
        raise ShardError(f"{path}: expected to write it, found {error.strerror}") from error
    return AdoptionResult(manifest, sum(count for found in scans.values() for _, count in found))


def count_token_bytes(folder: Path) -> int:
    """Return the bytes of tokens that ``adopt_shards`` will read."""
    return sum(path.stat().st_size for path in folder.glob("*.bin"))


def _divide(folder: Path, valid: str | None) -> dict[str, list[str]]:
    """Return the shard names of each split."""
    names = _find_names(folder)
    splits = {"train": names}
    if valid is not None:
        splits = {
            "train": [name for name in names if not fnmatchcase(name, valid)],
            "valid": [name for name in names if fnmatchcase(name, valid)],
        }
    for split, its in splits.items():
        if not its:
            raise ShardError(
                f"{folder}: expected at least one shard for {split}, "
                f"found only {', '.join(names) or 'files that are no .idx'}"
            )
    return splits


def _find_names(folder: Path) -> list[str]:
    """Return the shards' names in natural order."""
    if not folder.is_dir():
        raise ShardError(f"{folder}: expected a folder with shards, found none")
    names = {path.stem for path in folder.glob("*.idx")}
    for path in sorted(folder.glob("*.bin")):
        if path.stem not in names:
            raise ShardError(
                f"{index_path(folder / path.stem)}: expected an index for {path}, found none"
            )
    return sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return a sort key of names that compares digits inside them as numbers."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", name)
    return [(text, int(digits or 0)) for text, digits in pieces], name


def _scan(
    prefix: Path, tokenizer: TokenizerIdentity, progress: Callable[[int], object]
) -> tuple[ShardEntry, int]:
    """Return a shard's manifest entry and its number of documents without EOD."""
    scan = scan_shard(
        prefix,
        tokenizer,
        ids=ids_path(prefix).exists(),
        spans=spans_path(prefix).exists(),
        progress=progress,
    )
    if scan.problems or scan.entry is None:
        first, *others = scan.problems
        raise ShardError(f"{first} (and {len(others)} more)" if others else first)
    return scan.entry, scan.without_eod


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


def write_shards(
    path: Path,
    batches: Iterator[DocumentBatch],
    *,
    dtype: TokenType,
    shard_tokens: int,
    ids: bool = False,
    spans: bool = False,
) -> Iterator[ShardEntry]:
    """Write ``PATH-00000``, ``PATH-00001``, ... and yield their entries.

    Args:
        path: The start of their names.
        batches: Documents in order, none of them empty.
        dtype: Type of the tokens on disk.
        shard_tokens: A shard is closed once it holds this many tokens, at least 1.
        ids: Whether the documents have ids.
        spans: Whether their tokens are as ``mark_targets`` returns them.
    """
    waiting = next(batches, None)
    for number in count():
        if waiting is None:
            return
        room = shard_tokens
        prefix = path.with_name(f"{path.name}-{number:05d}")
        with ShardWriter(prefix, dtype, ids=ids, spans=spans) as writer:
            while waiting is not None and room > 0:
                ends = np.cumsum(waiting.lengths)
                fitting = min(int(np.searchsorted(ends, room)) + 1, ends.size)
                part = waiting.part(0, fitting)
                writer.add_documents(part.tokens, part.lengths, part.ids)
                room -= part.tokens.size
                left = waiting.part(fitting, ends.size)
                waiting = left if left.lengths.size else next(batches, None)
        yield writer.entry


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
