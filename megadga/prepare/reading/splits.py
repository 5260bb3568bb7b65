"""Which split a file belongs to by its name, and which files our own tools have written."""

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
    """Return where the bad records of a build are listed, beside its output.

    Args:
        output: The build's, absolute.
        digest: Of the build, hexadecimal, of 8 digits at least.
    """
    return output.with_name(f"{output.name}.rejects-{digest[:8]}.jsonl")


def is_rejects_list(name: str) -> bool:
    """Return whether a file of this name is one that ``rejects_path`` gives."""
    return _REJECTS.fullmatch(name) is not None


def describe_generated(path: Path) -> str | None:
    """Return what of these tools' making a file or folder is; None: nothing, as far as is seen.

    A folder that holds nothing but such folders is one, too: the output of a build is.

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
    """Return whether these tools have made a file or folder, or the folder that a file lies in.

    Raises:
        OSError: If a folder cannot be read.
    """
    return describe_generated(path) is not None or describe_folder(path.parent) is not None


def describe_folder(folder: Path) -> str | None:
    """Return what these tools have put into a folder; None: nothing, as far as is seen there.

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


_RECORDS = frozenset({".jsonl", ".ndjson", ".jsonlines", ".parquet"})


_MAYBE_RECORDS = frozenset({".json", ""})


_NOTES = frozenset({"readme", "license", "licence", "dataset_infos", "dataset_dict", "citation"})
"""Files that say something of the records beside them, by their names without a type."""


_NUMBERS = re.compile(r"[-_ ]*\d+([-_ ]*of[-_ ]*\d+)?$")


@dataclass(frozen=True, slots=True)
class FolderSplits:
    """The files of a folder by what is done with them.

    Attributes:
        train: To train on.
        valid: For validation; empty: the folder has none of its own.
        skipped: Not read: what says test, and what says nothing beside records that do.
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
    """Return the split that names say; of several the one that must be kept out of training.

    Args:
        parts: Names of folders and files.
        anywhere: Whether words count wherever they stand, or only alone between dots.
    """
    said = _splits_in(parts, anywhere=anywhere)
    return next((split for split in ("test", "valid", "train") if split in said), None)


def divide_files(folder: Path, files: Sequence[Path], *, mixed: bool = False) -> FolderSplits:
    """Return which files of a folder are for training and validation by their names below it.

    Args:
        folder: The folder.
        files: All of them, in order.
        mixed: Whether files of records may say nothing where others say that they are for
            training.

    Raises:
        ConfigError: If a file of records says several splits, or none where it must, or there are
            files but none to train on.
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
                    f"{file}: expected a name that says train, valid or test, as of others in "
                    f"{folder}, found none"
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
    """Return the split that the name of a file says below a folder; test: it is left out.

    Raises:
        ConfigError: If it is one of records and says several.
    """
    parts = file.relative_to(folder).parts
    alone = split_in_names(parts, anywhere=False)
    if is_record(file):
        said = _splits_in(parts, anywhere=True)
        if len(said) > 1:
            raise ConfigError(
                f"{file}: expected one split in what its name says below {folder}, found "
                f"{' and '.join(sorted(said))}"
            )
        return next(iter(said), None)
    if is_record(file, maybe=True):
        found = split_in_names(parts, anywhere=True)
        return found if found in (alone, "train") else "test"
    return "test" if alone == "valid" and name_type(file.name)[0] != ".txt" else alone


def is_record(file: Path, *, maybe: bool = False) -> bool:
    """Return whether a file's name says that it holds records, many documents.

    Args:
        file: The file.
        maybe: Whether to take names that say nothing of it, too.
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
