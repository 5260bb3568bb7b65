"""Reads shards to verify checksums and content, and notices files that change under a run."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.documents import CHUNK_TOKENS, check_ids, check_index, read_tokens, token_bounds
from megadga.data.files import Problems, checksum
from megadga.data.indexed import IndexedShard, ids_path, index_path, tokens_path
from megadga.data.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_grouping,
    read_manifest,
)
from megadga.errors import ShardError


@dataclass(frozen=True, slots=True)
class ShardScan:
    """What reading a shard has shown.

    Attributes:
        problems: Everything that is wrong with it, a line each.
        entry: What a manifest must say of it; None: it cannot be read to the end.
        without_eod: Documents that do not end in EOD; 0 if it is not known where they end.
    """

    problems: tuple[str, ...]
    entry: ShardEntry | None = None
    without_eod: int = 0


def scan_shard(
    prefix: Path,
    tokenizer: TokenizerIdentity,
    *,
    ids: bool,
    progress: Callable[[int], object] = lambda _: None,
) -> ShardScan:
    """Read every byte of a shard.

    Checked are its header and sizes, the places of sentences, the bounds of documents, every
    token's id and, if it has any, the documents' ids.

    Args:
        prefix: Path of its files without their suffixes.
        tokenizer: What wrote the tokens, or may have.
        ids: Whether it has an ``.ids``.
        progress: Called with the bytes of tokens that have been read since the last call.
    """
    problems = Problems()
    try:
        shard = IndexedShard.open(prefix)
        sound = check_index(shard, problems)
        tokens = _Tokens(shard, tokenizer, problems)
        for bounds in token_bounds(shard) if sound else _without_ends(shard):
            tokens.read(bounds, progress)
        if ids:
            check_ids(ids_path(prefix), shard.num_documents, problems)
        entry = ShardEntry(
            file=prefix.name,
            documents=shard.num_documents,
            tokens=shard.num_tokens,
            max_token=tokens.largest,
            bin_sha256=tokens.checksum.hexdigest(),
            idx_sha256=checksum(index_path(prefix)),
            ids_sha256=checksum(ids_path(prefix)) if ids else None,
        )
    except ShardError as error:
        problems.add(str(error))
        return ShardScan(problems.lines)
    except OSError as error:
        problems.add(f"{prefix}: expected a readable shard, found {error}")
        return ShardScan(problems.lines)
    return ShardScan(problems.lines, entry, tokens.without_eod if sound else 0)


def _without_ends(shard: IndexedShard) -> Iterator[IntArray]:
    """Yield all tokens as if they were one document."""
    yield np.array([0, shard.num_tokens])


class _Tokens:
    """What is learnt while reading a shard's tokens from the first to the last."""

    def __init__(
        self, shard: IndexedShard, tokenizer: TokenizerIdentity, problems: Problems
    ) -> None:
        self.largest = -1
        self.without_eod = 0
        self.checksum = hashlib.sha256()
        self._shard = shard
        self._tokenizer = tokenizer
        self._problems = problems

    def read(self, bounds: IntArray, progress: Callable[[int], object]) -> None:
        """Read the documents between consecutive bounds, shape ``(n + 1,)``."""
        ends = bounds[1:][np.diff(bounds) > 0]
        for start in range(int(bounds[0]), int(bounds[-1]), CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, int(bounds[-1]))
            tokens = read_tokens(self._shard, start, stop)
            self.checksum.update(tokens.data)
            self.largest = max(self.largest, int(tokens.max()))
            wrong = np.flatnonzero((tokens < 0) | (tokens >= self._tokenizer.vocab_size))
            self._problems.add_all(
                tokens_path(self._shard.prefix),
                "ids out of range",
                wrong,
                lambda at, start=start, tokens=tokens: (
                    f"token {start + at}: expected an id in [0, {self._tokenizer.vocab_size}), "
                    f"found {tokens[at]}"
                ),
            )
            first, last = np.searchsorted(ends, (start, stop), side="right")
            at_ends = tokens[ends[first:last] - 1 - start]
            self.without_eod += int(np.count_nonzero(at_ends != self._tokenizer.eod))
            progress(tokens.nbytes)


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


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a run reads.

    Attributes:
        path: Where it lies now.
        sha256: Its checksum by the manifest, hexadecimal.
    """

    path: Path
    sha256: str


FileStamps = Mapping[str, Sequence[int]]
"""Size in bytes and time of change in nanoseconds of each file, by name."""


def shard_files(folder: Path, entries: Iterable[ShardEntry], *, name: str) -> dict[str, DataFile]:
    """Return the files of some shards of one folder.

    Args:
        folder: Where they lie.
        entries: What its manifest says of them.
        name: What the files' names begin with, wherever they lie.
    """
    files: dict[str, DataFile] = {}
    for entry in entries:
        prefix = folder / entry.file
        for path, sha256 in (
            (tokens_path(prefix), entry.bin_sha256),
            (index_path(prefix), entry.idx_sha256),
        ):
            files[f"{name}/{path.name}"] = DataFile(path, sha256)
    return files


def check_checksums(files: Iterable[DataFile]) -> None:
    """Read files and compare their checksums with the manifest's.

    Raises:
        ShardError: If one is not what its manifest says, or cannot be read.
    """
    for file in files:
        try:
            found = checksum(file.path)
        except OSError as error:
            raise ShardError(
                f"{file.path}: expected a readable file, found {error.strerror}"
            ) from None
        if found != file.sha256:
            raise ShardError(
                f"{file.path}: changed since the run has read it: expected the SHA-256 "
                f"{file.sha256[:16]}... by its manifest, found {found[:16]}..."
            )


@final
class DataFileWatcher:
    """Remembers the sizes and times of a run's files, and notices when they change.

    Args:
        files: All of them, by name.

    Raises:
        ShardError: If one is gone.
    """

    def __init__(self, files: Mapping[str, DataFile]) -> None:
        self._files = files
        self._stamps = {name: _stamp(file.path) for name, file in files.items()}

    @property
    def stamps(self) -> FileStamps:
        """What is remembered."""
        return {name: list(stamp) for name, stamp in self._stamps.items()}

    def changed_since(self, stamps: FileStamps) -> list[str]:
        """Return the names of files whose size or time was another then; new names are none."""
        return [
            name
            for name, stamp in self._stamps.items()
            if name in stamps and tuple(stamps[name]) != stamp
        ]

    def check(self) -> None:
        """Compare sizes and times with what is remembered, and contents where they differ.

        Raises:
            ShardError: If a file is gone, or its content is not what its manifest says any more.
        """
        for name, file in self._files.items():
            stamp = _stamp(file.path)
            if stamp != self._stamps[name]:
                check_checksums([file])
                self._stamps[name] = stamp


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"{path}: expected a shard's file, found {error.strerror}") from None
    return status.st_size, status.st_mtime_ns
