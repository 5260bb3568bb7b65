"""Derives splits from file names, and recognises files written by these tools."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megadga.errors import ConfigError

_REJECTS = re.compile(r".+\.rejects-[0-9a-f]{8}\.jsonl", re.DOTALL)


_FOLDERS = {
    "the shards of a domain": ("manifest.json", "*.idx"),
    "a clustering": ("clusters.json", "centroids.npz"),
}


def rejects_path(output: Path, digest: str) -> Path:
    """Return the path of a build's list of invalid records, beside its output.

    Args:
        output: The build's output, absolute.
        digest: Digest of the build, at least 8 hex digits.
    """
    return output.with_name(f"{output.name}.rejects-{digest[:8]}.jsonl")


def is_rejects_list(name: str) -> bool:
    """Return whether a file name has the form of ``rejects_path``."""
    return _REJECTS.fullmatch(name) is not None


def describe_generated(path: Path) -> str | None:
    """Return what kind of output of these tools a file or folder is, None if it is none.

    A folder that contains only such folders is output of a build as well.

    Raises:
        OSError: If a folder cannot be read.
    """
    if not path.is_dir():
        return "a list of rejected records" if is_rejects_list(path.name) else None
    if (kind := describe_folder(path)) is not None:
        return kind
    inner = [one for one in path.iterdir() if not one.name.startswith(".")]
    if inner and all(one.is_dir() and describe_folder(one) for one in inner):
        return "shards"
    return None


def is_generated(path: Path) -> bool:
    """Return whether these tools wrote a file or folder, or the folder of a file.

    Raises:
        OSError: If a folder cannot be read.
    """
    return describe_generated(path) is not None or describe_folder(path.parent) is not None


def describe_folder(folder: Path) -> str | None:
    """Return what kind of output of these tools a folder contains, None if there is none.

    Raises:
        OSError: If it cannot be read.
    """
    for kind, names in _FOLDERS.items():
        if all(next(folder.glob(name), None) is not None for name in names):
            return kind
    return None


Split = Literal["train", "valid", "test"]


_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


_COMPRESSIONS = frozenset({".gz", ".zst", ".bz2", ".xz"})


_RECORDS = frozenset({".jsonl", ".ndjson", ".jsonlines", ".parquet", ".arrow"})


_MAYBE_RECORDS = frozenset({".json", ""})


_NOTES = frozenset({"readme", "license", "licence", "dataset_infos", "dataset_dict", "citation"})
"""Names, without type, of files that document a dataset."""


_NUMBERS = re.compile(r"[-_ ]*\d+([-_ ]*of[-_ ]*\d+)?$")


@dataclass(frozen=True, slots=True)
class FolderSplits:
    """The files of a folder by split.

    Attributes:
        train: Training files.
        valid: Validation files; empty if there are none.
        skipped: Skipped files: test files, and files that are not records beside records.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    skipped: tuple[Path, ...]


def name_type(name: str) -> tuple[str, str]:
    """Return a file's type and compression, of ``a.JSONL.gz`` ``.jsonl`` and ``.gz``.

    Either is empty if there is none: ``wiki_00`` and ``c4-train.00000-of-01024`` have no type.
    """
    path = Path(name.lower())
    compression = path.suffix if path.suffix in _COMPRESSIONS else ""
    suffix = path.with_suffix("").suffix if compression else path.suffix
    return "" if suffix[1:2].isdigit() else suffix, compression


def split_in_names(parts: Sequence[str], *, anywhere: bool) -> Split | None:
    """Return the split in names; of several, the one that must be excluded from training.

    Args:
        parts: Names of folders and files.
        anywhere: Whether words are matched anywhere, or only as whole parts between dots.
    """
    said = _splits_in(parts, anywhere=anywhere)
    return next((split for split in ("test", "valid", "train") if split in said), None)


def divide_files(folder: Path, files: Sequence[Path], *, mixed: bool = False) -> FolderSplits:
    """Assign the files of a folder to splits by their names.

    Args:
        folder: The folder.
        files: All its files, in order.
        mixed: Whether record files without a split are allowed beside ones named for training.

    Raises:
        ConfigError: If the name of a record file has several splits, or none where one is
            required, or there are no training files.
    """
    said = {file: file_split(folder, file) for file in files}
    by_records = {split for file, split in said.items() if is_record(file)} - {None}
    by_any = {split for file, split in said.items() if is_record(file, maybe=True)} - {None}
    train: list[Path] = []
    valid: list[Path] = []
    skipped: list[Path] = []
    for file, split in said.items():
        if split == "test":
            skipped.append(file)
        elif split == "valid":
            valid.append(file)
        elif is_record(file):
            if split is None and "train" in by_records and not mixed:
                raise ConfigError(
                    f"{file}: expected a name with train, valid or test, like others in {folder}, "
                    "found none"
                )
            train.append(file)
        elif by_records or (by_any and file.name.partition(".")[0].lower() in _NOTES):
            skipped.append(file)
        else:
            train.append(file)
    if files and not train:
        raise ConfigError(
            f"{folder}: expected files to train on, found none among {len(files)}: their names "
            f"say validation or test, as {(valid or skipped)[0]}"
        )
    return FolderSplits(tuple(train), tuple(valid), tuple(skipped))


def file_split(folder: Path, file: Path) -> Split | None:
    """Return the split in the name of a file below a folder; test: it is skipped.

    Raises:
        ConfigError: If the name of a record file has several splits.
    """
    parts = file.relative_to(folder).parts
    alone = split_in_names(parts, anywhere=False)
    if is_record(file):
        said = _splits_in(parts, anywhere=True)
        if len(said) > 1:
            raise ConfigError(
                f"{file}: expected at most one split in its name below {folder}, found "
                f"{' and '.join(sorted(said))}"
            )
        return next(iter(said), None)
    if is_record(file, maybe=True):
        found = split_in_names(parts, anywhere=True)
        return found if found in (alone, "train") else "test"
    return "test" if alone == "valid" and name_type(file.name)[0] != ".txt" else alone


def is_record(file: Path, *, maybe: bool = False) -> bool:
    """Return whether a file contains records, according to its name.

    Args:
        file: The file.
        maybe: Whether to include ambiguous names.
    """
    kind, compression = name_type(file.name)
    if kind in _RECORDS:
        return True
    return kind in _MAYBE_RECORDS and (maybe or bool(compression))


def _splits_in(parts: Sequence[str], *, anywhere: bool) -> set[Split]:
    found: list[str] = []
    for part in parts:
        if anywhere:
            found += re.split(r"[^a-z]+", part.lower())
        else:
            found += [_NUMBERS.sub("", one) for one in part.lower().split(".")]
    return {_WORDS[word] for word in found if word in _WORDS}
