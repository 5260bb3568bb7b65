"""Appends the shards of one folder to those of another: how a domain grows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from megadga.data.files import flush, link_file
from megadga.data.folder import DomainSource, open_shards
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megadga.data.scores import check_same_scorers, remove_scores, without_scores
from megadga.data.verify import ShardCheck
from megadga.errors import ShardError


def append_shards(
    folder: Path,
    source: Path,
    *,
    drop_scores: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Manifest:
    """Append the shards of a folder to a domain, split by split, after those that it has.

    The shards that are there are not touched: a run that reads them goes on. Files are linked, or
    copied to another file system, and become part of the domain all at once, with its manifest.
    After an interruption, call it again.

    Args:
        folder: The domain's folder.
        source: The folder of the new shards, of the same tokenizer; it is not changed.
        drop_scores: Leave out the new shards' scores, and remove those of the domain, which has
            them of all documents or of none.
        progress: Called with the bytes linked or copied since the last call.

    Returns:
        The domain's manifest.

    Raises:
        ShardError: If a manifest is missing or damaged, a folder has several domains, the
            tokenizers differ, only one has trained spans or such scores, a shard is in the domain
            already, contradicts its manifest, or writing fails.
    """
    manifest, new = read_manifest(folder), read_manifest(source)
    _check(folder, manifest, source, new)
    if not drop_scores:
        both = ((folder, manifest), (source, new))
        check_same_scorers(both, advice="drop the scores, and score the grown domain")
    try:
        for name in _score_names(manifest) if drop_scores else ():
            manifest = remove_scores(folder, manifest, name)
        splits = dict(manifest.splits)
        for split, entries in new.splits.items():
            for entry, shard in zip(
                entries, open_shards(DomainSource(source.name, source), new, split), strict=True
            ):
                if not shard.num_documents:
                    continue
                there = splits.get(split, ())
                kept = without_scores(entry) if drop_scores else entry
                added = replace(kept, file=_free_name(split, splits))
                for origin, target in _files(source, kept, folder, added, new):
                    progress(link_file(origin, target))
                splits[split] = (*there, added)
        flush(folder)
        grown = replace(manifest, splits=splits)
        write_manifest(folder, grown)
    except OSError as error:
        raise ShardError(f"{folder}: expected to write it, found {error}") from error
    return grown


def count_bytes(source: Path) -> int:
    """Return the bytes that `append_shards` will link or copy."""
    manifest = read_manifest(source)
    return sum(
        ShardCheck(source, entry, manifest.tokenizer).num_bytes
        for entries in manifest.splits.values()
        for entry in entries
        if entry.documents
    )


def _check(folder: Path, manifest: Manifest, source: Path, new: Manifest) -> None:
    if folder.resolve() == source.resolve():
        raise ShardError(f"{source}: expected another folder than the domain's, found it again")
    for path, each in ((folder, manifest), (source, new)):
        if each.grouping is not None:
            raise ShardError(
                f"{manifest_path(path)}: grouping: expected the folder of one domain, "
                f"found {each.grouping.domains} in shared shards"
            )
    if new.tokenizer != manifest.tokenizer:
        raise ShardError(
            f"{manifest_path(source)}: tokenizer: expected that of {folder}, "
            f"{manifest.tokenizer}, found {new.tokenizer}"
        )
    old_entries, new_entries = _entries(manifest), _entries(new)
    spans = {e.spans_sha256 is not None for e in (*old_entries, *new_entries) if e.documents}
    if len(spans) > 1:
        raise ShardError(
            f"{source}: expected trained spans as in {folder}, in all shards or in none, "
            "found them in some: append dialogues to dialogues alone"
        )
    there = {entry.bin_sha256: entry.file for entry in old_entries if entry.documents}
    for entry in new_entries:
        if entry.documents and entry.bin_sha256 in there:
            raise ShardError(
                f"{source / entry.file}: expected tokens that {folder} does not have, "
                f"found those of {there[entry.bin_sha256]}: they were appended already"
            )


def _entries(manifest: Manifest) -> list[ShardEntry]:
    return [entry for entries in manifest.splits.values() for entry in entries]


def _score_names(manifest: Manifest) -> set[str]:
    return {name for entry in _entries(manifest) for name in entry.scores}


def _free_name(split: str, splits: dict[str, tuple[ShardEntry, ...]]) -> str:
    """Return the first name ``SPLIT-00000`` and so on that no shard has."""
    taken = {entry.file for entries in splits.values() for entry in entries}
    number = len(splits.get(split, ()))
    while (name := f"{split}-{number:05d}") in taken:
        number += 1
    return name


def _files(
    source: Path, entry: ShardEntry, folder: Path, added: ShardEntry, manifest: Manifest
) -> Iterator[tuple[Path, Path]]:
    """Yield each file of a shard and its place in the domain's folder."""
    origins = ShardCheck(source, entry, manifest.tokenizer).files
    targets = ShardCheck(folder, added, manifest.tokenizer).files
    yield from ((origins[key], targets[key]) for key in origins)
