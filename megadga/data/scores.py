"""Scores of documents: a file beside each shard, one number a document.

``PREFIX.NAME.scores`` has the scores of a shard's documents in their order, as little-endian
float32 without a header. The manifest has its checksum, and says by which scorer. The higher a
score, the sooner the document is kept: it is the logarithm of how likely that is, up to a constant
and a temperature (``ranking``).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megadga.data.files import Problems, atomic_write
from megadga.data.manifest import (
    Manifest,
    ScoresEntry,
    ShardEntry,
    manifest_path,
    write_manifest,
)
from megadga.data.targets import BoolArray
from megadga.errors import ShardError

ScoreArray = NDArray[np.floating[Any]]
"""Scores of documents, shape ``(n,)``; float32 in files."""

_DTYPE = np.dtype("<f4")


def scores_path(prefix: Path, name: str) -> Path:
    """Return the path of a shard's scores; the prefix may contain dots."""
    return Path(f"{prefix}.{name}.scores")


def read_scores(folder: Path, entries: Sequence[ShardEntry], name: str) -> ScoreArray:
    """Return the scores of all documents of some shards, in order, shape ``(documents,)``.

    Args:
        folder: Of the shards.
        entries: Their manifest entries.
        name: Of the scores.

    Raises:
        ShardError: If a shard has no such scores, or others than by the first one's scorer, or a
            file is missing or damaged.
    """
    columns = [_column(folder, entry, name) for entry in entries]
    for entry, column in zip(entries, columns, strict=True):
        if column.scorer != columns[0].scorer:
            raise ShardError(
                f"{folder / entry.file}: scores.{name}.scorer: expected {columns[0].scorer!r}, "
                f"as {entries[0].file} has it, found {column.scorer!r}: score the documents again"
            )
    parts = [
        _read(scores_path(folder / entry.file, name), column, entry.documents)
        for entry, column in zip(entries, columns, strict=True)
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _column(folder: Path, entry: ShardEntry, name: str) -> ScoresEntry:
    try:
        return entry.scores[name]
    except KeyError:
        only = ", ".join(entry.scores) or "none"
        raise ShardError(
            f"{folder / entry.file}: scores: expected {name}, found {only}: run "
            f"megadga data score on all of its folder"
        ) from None


def _read(path: Path, column: ScoresEntry, documents: int) -> ScoreArray:
    problems = Problems()
    found = scan_scores(path, column, documents, problems)
    if found != column:
        problems.add(
            f"{path}: sha256: expected {column.sha256} by the manifest, found {found.sha256}"
        )
    for problem in problems.lines:
        raise ShardError(problem)
    return np.fromfile(path, dtype=_DTYPE).astype(np.float32, copy=False)


def scan_scores(
    path: Path, column: ScoresEntry, documents: int, problems: Problems
) -> ScoresEntry:
    """Check the scores of a shard, and return the manifest entry that describes them.

    Args:
        path: Their file.
        column: Their entry, of which the checksum is not looked at.
        documents: Number of documents of the shard.
        problems: Collects the problems found.

    Raises:
        ShardError: If the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: expected documents' scores, found {error.strerror}") from error
    expected = documents * _DTYPE.itemsize
    if len(content) != expected:
        problems.add(f"{path}: expected {expected} bytes, 4 a document, found {len(content)}")
    else:
        scores = np.frombuffer(content, dtype=_DTYPE)
        problems.add_all(
            path,
            "scores that are not finite",
            np.flatnonzero(~np.isfinite(scores)),
            lambda at: f"document {at}: expected a finite score, found {scores[at]}",
        )
    return ScoresEntry(column.scorer, hashlib.sha256(content).hexdigest())


def write_scores(
    folder: Path, entries: Sequence[ShardEntry], name: str, scorer: str, scores: NDArray[Any]
) -> tuple[ShardEntry, ...]:
    """Write the scores of the documents of some shards; return their entries with the scores.

    Args:
        folder: Of the shards.
        entries: Their manifest entries, which have no scores of this name.
        name: Of the scores.
        scorer: What they depend on, beside each document.
        scores: Of all documents in order, finite in float32, shape ``(documents,)``.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If there is not one finite score a document.
    """
    documents = [entry.documents for entry in entries]
    if scores.shape != (sum(documents),):
        raise ValueError(f"scores: expected shape ({sum(documents)},), found {scores.shape}")
    if not storable(scores).all():
        raise ValueError("scores: expected finite numbers, found others")
    written: list[ShardEntry] = []
    parts = np.split(scores, np.cumsum(documents)[:-1]) if documents else []
    for entry, part in zip(entries, parts, strict=True):
        content = part.astype(_DTYPE).tobytes()
        with atomic_write(scores_path(folder / entry.file, name)) as file:
            file.write(content)
        column = ScoresEntry(scorer, hashlib.sha256(content).hexdigest())
        written.append(replace(entry, scores={**entry.scores, name: column}))
    return tuple(written)


def storable(scores: NDArray[Any]) -> BoolArray:
    """Return which scores are finite as float32, shape ``(n,)``."""
    return np.abs(scores) <= np.finfo(np.float32).max


def remove_scores(folder: Path, manifest: Manifest, name: str) -> Manifest:
    """Remove the scores of a name from a folder and its manifest; return what is left of that.

    Raises:
        OSError: If a file cannot be removed or written.
    """
    files: list[Path] = []
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    for split, entries in manifest.splits.items():
        files += [scores_path(folder / each.file, name) for each in entries if name in each.scores]
        splits[split] = tuple(without_scores(entry, name) for entry in entries)
    left = replace(manifest, splits=splits)
    if files:
        write_manifest(folder, left)  # first: no manifest names a file that is missing
    for file in files:
        file.unlink(missing_ok=True)
    return left


def without_scores(entry: ShardEntry, *names: str) -> ShardEntry:
    """Return a shard's entry without the scores of some names; without names, without any."""
    left = {n: column for n, column in entry.scores.items() if names and n not in names}
    return replace(entry, scores=left)


def scorers(entries: Sequence[ShardEntry]) -> Mapping[str, str]:
    """Return the scorers of the scores that every one of some shards has, by the scores' name.

    Shards without documents do not count.
    """
    counted = [entry for entry in entries if entry.documents]
    if not counted:
        return {}
    first = counted[0].scores
    return {
        name: column.scorer
        for name, column in first.items()
        if all(name in entry.scores for entry in counted)
    }


def check_same_scorers(named: Sequence[tuple[Path, Manifest]], *, advice: str) -> None:
    """Check that scores of one name are by one scorer in all of some folders, or in none of them.

    Args:
        named: The folders with their manifests.
        advice: What to do, at the end of the error.

    Raises:
        ShardError: If a shard has no such scores as another one has; names both.
    """
    shards = [
        (folder, entry)
        for folder, manifest in named
        for entry in manifest.splits.get("train", ())
        if entry.documents
    ]
    for folder, entry in shards:
        first_folder, first = shards[0]
        for name in {**first.scores, **entry.scores}:
            expected, found = (each.scores.get(name) for each in (first, entry))
            if expected is None or found is None or expected.scorer != found.scorer:
                stated, other = (
                    "none" if c is None else repr(c.scorer) for c in (expected, found)
                )
                raise ShardError(
                    f"{manifest_path(folder)}: {entry.file}: scores.{name}: expected {stated}, as "
                    f"{first_folder / first.file} has, found {other}: {advice}"
                )
