"""Gives shards that Megatron has built the manifest that they lack. Knows no text."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from megadga.errors import ShardError
from megadga.shards.indexed import ids_path, index_path
from megadga.shards.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    write_manifest,
)
from megadga.shards.scan import scan_shard


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a folder.

    Attributes:
        manifest: What was written.
        without_eod: Documents that do not end in EOD.
    """

    manifest: Manifest
    without_eod: int


def adopt_shards(
    folder: Path,
    tokenizer: TokenizerIdentity,
    *,
    valid: str | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Adopted:
    """Write the manifest of a folder that holds shards, after reading all of them.

    The shards become the training split in the natural order of their names, ``web_2`` before
    ``web_10``. The shards themselves are left as they are.

    Args:
        folder: Where they lie; its name becomes the domain's.
        tokenizer: What wrote their tokens, as far as can be seen: all ids must be of it.
        valid: Those whose name, without ``.idx``, matches this pattern become the validation
            split instead; None: there is none.
        progress: Called with the bytes of tokens that have been read since the last call.

    Raises:
        ShardError: If the folder has a manifest already, a split has no tokens, no name matches
            ``valid``, or a shard is damaged or holds an id that is not the tokenizer's.
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
    return Adopted(manifest, sum(count for found in scans.values() for _, count in found))


def count_token_bytes(folder: Path) -> int:
    """Return how many bytes of tokens ``adopt_shards`` will read."""
    return sum(path.stat().st_size for path in folder.glob("*.bin"))


def _divide(folder: Path, valid: str | None) -> dict[str, list[str]]:
    """Return the names of the shards of each split."""
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
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return a key by which numbers inside names are compared as numbers."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", name)
    return [(text, int(digits or 0)) for text, digits in pieces], name


def _scan(
    prefix: Path, tokenizer: TokenizerIdentity, progress: Callable[[int], object]
) -> tuple[ShardEntry, int]:
    """Return what the manifest must say of a shard, and its documents that do not end in EOD."""
    scan = scan_shard(prefix, tokenizer, ids=ids_path(prefix).exists(), progress=progress)
    if scan.problems or scan.entry is None:
        first, *others = scan.problems
        raise ShardError(f"{first} (and {len(others)} more)" if others else first)
    return scan.entry, scan.without_eod
