"""Checks every byte of domains' folders, and goes on after a problem. Knows no text.

The work is divided by shards, so that many can be checked at a time.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from megadga.errors import ShardError
from megadga.shards.files import checksum
from megadga.shards.grouping import read_grouping
from megadga.shards.indexed import ids_path, index_path, tokens_path
from megadga.shards.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_manifest,
)
from megadga.shards.scan import scan_shard


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """One shard that is to be checked.

    Attributes:
        folder: Where it lies.
        entry: What the manifest says of it.
        tokenizer: What the manifest says has written it.
    """

    folder: Path
    entry: ShardEntry
    tokenizer: TokenizerIdentity

    @property
    def files(self) -> dict[str, Path]:
        """The files that it must have, by the key of their checksum."""
        prefix = self.folder / self.entry.file
        files = {"bin_sha256": tokens_path(prefix), "idx_sha256": index_path(prefix)}
        return files if self.entry.ids_sha256 is None else files | {"ids_sha256": ids_path(prefix)}

    @property
    def num_bytes(self) -> int:
        """Bytes of those of its files that are there."""
        return sum(path.stat().st_size for path in self.files.values() if path.exists())


@dataclass(frozen=True, slots=True)
class FolderCheck:
    """What a folder's manifest and list of files say already, and what is still to be read.

    Attributes:
        problems: A line each.
        shards: All that the manifest names.
    """

    problems: tuple[str, ...]
    shards: tuple[ShardCheck, ...]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What checking a shard has shown.

    Attributes:
        problems: A line each.
        warnings: A line each: documents that do not end in EOD are no problem in shards that
            another program has built.
        num_bytes: Bytes of its files.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    num_bytes: int


def find_folders(path: Path) -> tuple[Path, ...]:
    """Return a domain's own folder, or each folder in a folder of domains, hidden ones aside.

    Whether each is what it should be is seen when it is checked.
    """
    if manifest_path(path).exists() or not path.is_dir():
        return (path,)
    folders = (inner for inner in path.iterdir() if inner.is_dir() and inner.name[0] != ".")
    return tuple(sorted(folders)) or (path,)


def plan_checks(folder: Path) -> FolderCheck:
    """Check a folder's manifest and list of files, and return the shards that are to be read."""
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        return FolderCheck((str(error),), ())
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    shards = tuple(ShardCheck(folder, entry, manifest.tokenizer) for entry in entries)
    problems = (
        *_repeated(folder, entries),
        *_left_over(folder, shards),
        *_check_grouping(folder, manifest),
    )
    return FolderCheck(problems, shards)


def verify_shard(check: ShardCheck) -> ShardReport:
    """Read a whole shard and compare it with what its manifest says of it."""
    prefix = check.folder / check.entry.file
    scan = scan_shard(prefix, check.tokenizer, ids=check.entry.ids_sha256 is not None)
    if scan.entry is None:
        problems = (*scan.problems, *_compare_checksums(check))
    else:
        problems = (*scan.problems, *_compare(check, scan.entry))
    return ShardReport(problems, tuple(_warn(check, scan.without_eod)), check.num_bytes)


def _warn(check: ShardCheck, without_eod: int) -> Iterator[str]:
    if without_eod:
        path = tokens_path(check.folder / check.entry.file)
        yield (
            f"warning: {path}: expected documents that end in EOD ({check.tokenizer.eod}), "
            f"found {without_eod:,} of {check.entry.documents:,} that do not"
        )


def _compare(check: ShardCheck, found: ShardEntry) -> Iterator[str]:
    counted, files = asdict(found), check.files
    for key, stated in asdict(check.entry).items():
        if counted[key] != stated:
            file = files["idx_sha256" if key == "documents" else "bin_sha256"]
            yield _contradiction(files.get(key, file), key, stated, counted[key])


def _compare_checksums(check: ShardCheck) -> Iterator[str]:
    """Compare what can be compared where a file is damaged: the others may be damaged too."""
    stated = asdict(check.entry)
    for key, path in check.files.items():
        try:
            if (found := checksum(path)) != stated[key]:
                yield _contradiction(path, key, stated[key], found)
        except OSError as error:
            yield f"{path}: expected a readable file, found {error.strerror}"


def _contradiction(path: Path, key: str, stated: object, found: object) -> str:
    return f"{path}: {key}: expected {stated} by the manifest, found {found}"


def _repeated(folder: Path, entries: list[ShardEntry]) -> Iterator[str]:
    for file, count in Counter(entry.file for entry in entries).items():
        if count > 1:
            yield f"{manifest_path(folder)}: splits: expected {file} once, found it {count} times"


def _left_over(folder: Path, shards: tuple[ShardCheck, ...]) -> Iterator[str]:
    """Name what looks like a shard, or a part of one, and is in no split."""
    known = {path for shard in shards for path in shard.files.values()}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".idx", ".ids", ".partial") and path not in known:
            yield f"{path}: expected only files that the manifest names, found another"


def _check_grouping(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Check the file that divides the shards into many domains, if there is one."""
    if manifest.grouping is None:
        return
    try:
        read_grouping(folder, manifest)
    except ShardError as error:
        yield str(error)
