"""Writes folders of shards with their manifests, and adopts shards that others have written."""

import re
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.data.documents import DocumentBatch
from megadga.data.indexed import (
    ShardWriter,
    TokenType,
    best_dtype,
    ids_path,
    index_path,
)
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    write_manifest,
)
from megadga.data.targets import spans_path
from megadga.data.verify import scan_shard
from megadga.errors import ShardError

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
