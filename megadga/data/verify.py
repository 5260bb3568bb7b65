"""Verifies the checksums and content of shards, and detects files that change during a run."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.documents import CHUNK_TOKENS, check_ids, check_index, read_tokens, token_bounds
from megadga.data.files import Problems, checksum
from megadga.data.indexed import IndexedShard, ids_path, index_path, tokens_path
from megadga.data.manifest import (
    Manifest,
    ScoresEntry,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_grouping,
    read_manifest,
)
from megadga.data.scores import scan_scores, scores_path
from megadga.data.targets import describe_span, find_wrong_spans, read_spans, spans_path
from megadga.errors import ShardError


@dataclass(frozen=True, slots=True)
class ShardScan:
    """Result of reading a whole shard.

    Attributes:
        problems: All problems, one line each.
        entry: The manifest entry that describes the shard; None if it cannot be read completely.
        without_eod: Number of documents that do not end in EOD; 0 if the bounds are damaged.
    """

    problems: tuple[str, ...]
    entry: ShardEntry | None = None
    without_eod: int = 0


def scan_shard(
    prefix: Path,
    tokenizer: TokenizerIdentity,
    *,
    ids: bool,
    spans: bool = False,
    scores: Mapping[str, ScoresEntry] = MappingProxyType({}),
    progress: Callable[[int], object] = lambda _: None,
) -> ShardScan:
    """Read every byte of a shard.

    Checks the header and file sizes, sentence offsets, document bounds, every token id and, if
    present, the documents' ids, the spans of trained tokens and the scores.

    Args:
        prefix: Path of its files without suffix.
        tokenizer: Tokenizer that produced the tokens, or is assumed to.
        ids: Whether it has an ``.ids`` file.
        spans: Whether it has a ``.spans`` file.
        scores: Its documents' scores, by name, of which the checksums are not looked at.
        progress: Called with the bytes of tokens read since the last call.
    """
    problems = Problems()
    try:
        shard = IndexedShard.open(prefix)
        sound = check_index(shard, problems)
        tokens = _Tokens(shard, tokenizer, problems)
        trained = _Spans(shard, problems) if spans else None
        for bounds in token_bounds(shard) if sound else _without_ends(shard):
            tokens.read(bounds, progress)
            if trained is not None:
                trained.check_documents(bounds)
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
            spans_sha256=checksum(spans_path(prefix)) if spans else None,
            trained_tokens=None if trained is None else trained.num_tokens,
            scores={
                name: scan_scores(scores_path(prefix, name), entry, shard.num_documents, problems)
                for name, entry in scores.items()
            },
        )
    except ShardError as error:
        problems.add(str(error))
        return ShardScan(problems.lines)
    except OSError as error:
        problems.add(f"{prefix}: expected a readable shard, found {error}")
        return ShardScan(problems.lines)
    return ShardScan(problems.lines, entry, tokens.without_eod if sound else 0)


def _without_ends(shard: IndexedShard) -> Iterator[IntArray]:
    """Yield bounds that treat all tokens as one document."""
    yield np.array([0, shard.num_tokens])


class _Tokens:
    """Accumulates checksum, largest id and EOD counts while a shard is read in order."""

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


class _Spans:
    """The trained spans of a shard, checked when they are read and against its documents."""

    def __init__(self, shard: IndexedShard, problems: Problems) -> None:
        self._path = spans_path(shard.prefix)
        self._bounds = read_spans(self._path)
        self._problems = problems
        self.num_tokens = int((self._bounds[:, 1] - self._bounds[:, 0]).sum())
        wrong = find_wrong_spans(self._bounds, shard.num_tokens)
        problems.add_all(
            self._path,
            "wrong spans",
            wrong,
            lambda at: describe_span(self._bounds, shard.num_tokens, at),
        )
        self._sound = not wrong.size

    def check_documents(self, bounds: IntArray) -> None:
        """Check that no span goes beyond its document, of consecutive ones, shape ``(n + 1,)``."""
        if not self._sound:
            return
        first, last = np.searchsorted(self._bounds[:, 0], bounds[[0, -1]])
        low, high = self._bounds[first:last].T
        ends = bounds[np.searchsorted(bounds, low, side="right")]
        self._problems.add_all(
            self._path,
            "spans across documents",
            np.flatnonzero(high > ends),
            lambda at: (
                f"span {first + at}: expected one inside a document, which ends at {ends[at]}, "
                f"found {low[at]} to {high[at]}"
            ),
        )


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """A shard to be checked.

    Attributes:
        folder: Its folder.
        entry: Its manifest entry.
        tokenizer: The tokenizer named in the manifest.
    """

    folder: Path
    entry: ShardEntry
    tokenizer: TokenizerIdentity

    @property
    def files(self) -> dict[str, Path]:
        """The files it must have, by manifest key of their checksum."""
        prefix = self.folder / self.entry.file
        files = {"bin_sha256": tokens_path(prefix), "idx_sha256": index_path(prefix)}
        if self.entry.ids_sha256 is not None:
            files["ids_sha256"] = ids_path(prefix)
        if self.entry.spans_sha256 is not None:
            files["spans_sha256"] = spans_path(prefix)
        return files | {f"scores.{n}.sha256": scores_path(prefix, n) for n in self.entry.scores}

    @property
    def checksums(self) -> dict[str, str]:
        """The checksums of these files, by the same keys."""
        stated = _flat(self.entry)
        return {key: stated[key] for key in self.files}

    @property
    def num_bytes(self) -> int:
        """Total size of its existing files."""
        return sum(path.stat().st_size for path in self.files.values() if path.exists())


@dataclass(frozen=True, slots=True)
class FolderCheck:
    """Result of checking a folder's manifest and file list, and the shards left to read.

    Attributes:
        problems: One line each.
        shards: All shards named in the manifest.
    """

    problems: tuple[str, ...]
    shards: tuple[ShardCheck, ...]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """Result of verifying a shard.

    Attributes:
        problems: One line each.
        warnings: One line each. Documents without EOD are only a warning, as shards built by
            other programs may have them.
        num_bytes: Total size of its files.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    num_bytes: int


def find_folders(path: Path) -> tuple[Path, ...]:
    """Return a domain's own folder, or each folder in a folder of domains, hidden ones excluded.

    The folders' contents are not checked here.
    """
    if manifest_path(path).exists() or not path.is_dir():
        return (path,)
    folders = (inner for inner in path.iterdir() if inner.is_dir() and inner.name[0] != ".")
    return tuple(sorted(folders)) or (path,)


def plan_checks(folder: Path) -> FolderCheck:
    """Check a folder's manifest and file list, and return the shards to verify."""
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        return FolderCheck((str(error),), ())
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    shards = tuple(ShardCheck(folder, entry, manifest.tokenizer) for entry in entries)
    problems = (
        *_duplicate_entries(folder, entries),
        *_unlisted_files(folder, shards),
        *_check_grouping(folder, manifest),
    )
    return FolderCheck(problems, shards)


def verify_shard(check: ShardCheck) -> ShardReport:
    """Read a whole shard and compare it with its manifest entry."""
    prefix = check.folder / check.entry.file
    scan = scan_shard(
        prefix,
        check.tokenizer,
        ids=check.entry.ids_sha256 is not None,
        spans=check.entry.spans_sha256 is not None,
        scores=check.entry.scores,
    )
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
    counted, files = _flat(found), check.files
    for key, stated in _flat(check.entry).items():
        if counted[key] != stated:
            of_key = {"documents": "idx_sha256", "trained_tokens": "spans_sha256"}.get(key, key)
            file = files.get(of_key, files["bin_sha256"])
            yield _mismatch(file, key, stated, counted[key])


def _compare_checksums(check: ShardCheck) -> Iterator[str]:
    """Compare the checksum of every file of a damaged shard, as several may be damaged."""
    stated = check.checksums
    for key, path in check.files.items():
        try:
            if (found := checksum(path)) != stated[key]:
                yield _mismatch(path, key, stated[key], found)
        except OSError as error:
            yield f"{path}: expected a readable file, found {error.strerror}"


def _flat(entry: ShardEntry) -> dict[str, Any]:
    """Return all that an entry states, by key; of scores by ``scores.NAME.sha256`` and so on."""
    stated = asdict(entry)
    scores = stated.pop("scores")
    return stated | {
        f"scores.{name}.{key}": value
        for name, column in scores.items()
        for key, value in column.items()
    }


def check_files(check: ShardCheck) -> None:
    """Compare the checksums of a shard's files with the manifest's.

    Raises:
        ShardError: If one differs, or a file cannot be read.
    """
    for problem in _compare_checksums(check):
        raise ShardError(problem)


def _mismatch(path: Path, key: str, stated: object, found: object) -> str:
    return f"{path}: {key}: expected {stated} by the manifest, found {found}"


def _duplicate_entries(folder: Path, entries: list[ShardEntry]) -> Iterator[str]:
    for file, count in Counter(entry.file for entry in entries).items():
        if count > 1:
            yield f"{manifest_path(folder)}: splits: expected {file} once, found it {count} times"


_SHARD_FILES = (".bin", ".idx", ".ids", ".spans", ".scores", ".partial")


def _unlisted_files(folder: Path, shards: tuple[ShardCheck, ...]) -> Iterator[str]:
    """Report shard files, complete or partial, that no split lists."""
    known = {path for shard in shards for path in shard.files.values()}
    for path in sorted(folder.iterdir()):
        if path.suffix in _SHARD_FILES and path not in known:
            yield f"{path}: expected only files named in the manifest, found another"


def _check_grouping(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Check the file with the domain bounds, if the folder is grouped."""
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
        path: Its current path.
        sha256: Its checksum in the manifest, as hex digits.
    """

    path: Path
    sha256: str


FileStamps = Mapping[str, Sequence[int]]
"""Size in bytes and modification time in nanoseconds of each file, by name."""


def shard_files(folder: Path, entries: Iterable[ShardEntry], *, name: str) -> dict[str, DataFile]:
    """Return the files of shards of one folder that a run reads, by name: all but the ids.

    Args:
        folder: Their folder.
        entries: Their manifest entries.
        name: Prefix of the names, independent of the folder's location.
    """
    files: dict[str, DataFile] = {}
    for entry in entries:
        prefix = folder / entry.file
        for path, sha256 in (
            (tokens_path(prefix), entry.bin_sha256),
            (index_path(prefix), entry.idx_sha256),
            (spans_path(prefix), entry.spans_sha256),
        ):
            if sha256 is not None:
                files[f"{name}/{path.name}"] = DataFile(path, sha256)
    return files


def check_checksums(files: Iterable[DataFile]) -> None:
    """Read files and compare their checksums with the manifest's.

    Raises:
        ShardError: If a checksum differs, or a file cannot be read.
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
                f"{file.path}: changed since the run read it: expected the SHA-256 "
                f"{file.sha256[:16]}... of its manifest, found {found[:16]}..."
            )


@final
class DataFileWatcher:
    """Records the sizes and modification times of a run's files, and detects changes.

    Args:
        files: All files, by name.
    """

    def __init__(self, files: Mapping[str, DataFile]) -> None:
        self._files = files
        self._stamps = {name: _stamp(file.path) for name, file in files.items()}

    @property
    def stamps(self) -> FileStamps:
        """The recorded sizes and times."""
        return {name: list(stamp) for name, stamp in self._stamps.items()}

    def changed_since(self, stamps: FileStamps) -> list[str]:
        """Return the names of files whose recorded size or time differs; ignores new names."""
        return [
            name
            for name, stamp in self._stamps.items()
            if name in stamps and tuple(stamps[name]) != stamp
        ]

    def check(self) -> None:
        """Compare sizes and times with the recorded ones, and checksums where they differ.

        Raises:
            ShardError: If a file is missing, or its content no longer matches the manifest.
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
