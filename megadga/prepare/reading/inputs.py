"""Maps input files and folders to domains.

Files written by these tools are not inputs: they are skipped by patterns and in folders, and
rejected if named explicitly.
"""

import glob
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError
from megadga.prepare.reading.records import FOLDER_NAME, is_folder_name
from megadga.prepare.reading.splits import (
    FolderSplits,
    Split,
    describe_folder,
    describe_generated,
    divide_files,
    file_split,
    is_generated,
    is_record,
    is_rejects_list,
    name_type,
    split_in_names,
)

FILE_TYPES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", ".txt")
NAMES_SHOWN = 3
"""Maximum files listed in a line."""
_SAME_TEXT = frozenset({".jsonl", ".ndjson", ".jsonlines", ".json", ".parquet", ".arrow"})
"""Formats in which the same documents are commonly distributed."""
_ARROW_NOTES = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
EXPECTED_TYPES = f"a folder or a file that ends in {', '.join(FILE_TYPES)}"


@dataclass(frozen=True, slots=True)
class DomainInput:
    """Input of one domain.

    Attributes:
        name: The domain's name.
        train: A file or folder of documents.
        valid: A file or folder of validation documents; None: files in the folder ``train`` with
            names for validation, or else a fraction of its documents.
    """

    name: str
    train: Path
    valid: Path | None


def expand_inputs(patterns: Iterable[str], *, output: Path | None = None) -> tuple[Path, ...]:
    """Return the files and folders that match the patterns, sorted and without duplicates.

    Args:
        patterns: Paths or glob patterns; ``**`` stands for any number of folders.
        output: A file that will be written, which is excluded from matches.

    Raises:
        ConfigError: If a pattern matches nothing, or matches inside a folder named after
            validation or test that is not part of the pattern itself; if a path was written by
            these tools, or a folder contains the output.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        paths.update(_matches(pattern, output))
    spelt: dict[Path, Path] = {}
    for path in sorted(paths):
        if output is not None and output.resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"{output}: expected an output outside of the inputs, found it in {path}"
            )
        spelt.setdefault(_place(path), path)
    return tuple(spelt.values())


def plan_domains(paths: Sequence[Path]) -> tuple[DomainInput, ...]:
    """Return one domain per input, named after it; a pair of inputs makes one domain.

    ``NAME.train.EXT`` and ``NAME.valid.EXT`` (files or folders) are the two splits of ``NAME``.

    Raises:
        ConfigError: If a file type is unknown or its name is not valid for a domain, two inputs
            have the same domain name or contain the same file, one of a pair is missing, or
            another name refers to validation or test.
    """
    names: dict[str, Path] = {}
    for path in paths:
        name = _domain_name(path)
        if name in names:
            raise ConfigError(
                f"{path}: expected one input for the domain {name}, found {names[name]} too"
            )
        names[name] = path
    domains: list[DomainInput] = []
    for name, path in names.items():
        stem, split = _split(name)
        if not split:
            _check_train(path, name)
            domains.append(DomainInput(name, path, None))
            continue
        other = f"{stem}.{'valid' if split == 'train' else 'train'}"
        if other not in names:
            raise ConfigError(f"{path}: expected {other} among the inputs too, found no such file")
        if stem in names:
            raise ConfigError(
                f"{path}: expected one input for the domain {stem}, found {names[stem]} too"
            )
        if split == "train":
            domains.append(DomainInput(stem, path, names[other]))
    _check_disjoint(domains)
    return tuple(domains)


def plan_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return all files of all inputs, sorted and without duplicates, for domains from records.

    The records of all files are pooled, and some are held out by their text. So names of splits,
    ``NAME.train.EXT`` or ``validation-00000-of-00001.parquet``, are rejected, as their separation
    would be lost.

    Raises:
        ConfigError: If an input does not exist or has an unknown type, a name refers to a split,
            or two files contain the same records.
    """
    files: list[Path] = []
    for path in paths:
        name = _name(path)
        _check_no_split(path, split_in_names([name], anywhere=True))
        of_input = list_files(path)
        for file in of_input if path.is_dir() else ():
            split = file_split(path, file)
            _check_no_split(file, split if split == "valid" or is_record(file) else None)
        files += divide_input(path, of_input, mixed=True).train
    return _each_once(files)


def divide_input(path: Path, files: Sequence[Path], *, mixed: bool = False) -> FolderSplits:
    """Return the files of an input by split; a single file is for training.

    Args:
        path: The input.
        files: All of its files.
        mixed: As for ``divide_files``.

    Raises:
        ConfigError: As ``divide_files``.
    """
    if path.is_dir():
        return divide_files(path, files, mixed=mixed)
    return FolderSplits(tuple(files), (), ())


def pair_files(path: Path, split: Split) -> tuple[Path, ...]:
    """Return the files of one input of a pair, a file or a folder.

    Raises:
        ConfigError: If the name of a file in the folder refers to another split.
    """
    files = list_files(path)
    for file in files if path.is_dir() else ():
        said = file_split(path, file)
        if said not in (None, split) and is_record(file, maybe=True):
            raise ConfigError(
                f"{file}: expected only {split} files in {path}, found a name that says {said}"
            )
    return files


def training_files(path: Path) -> tuple[Path, ...]:
    """Return a file itself, or those files of a folder that are for training, sorted by path.

    Raises:
        ConfigError: As ``list_files`` and ``divide_files``.
    """
    return divide_input(path, list_files(path)).train


def training_inputs(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the inputs that are not named after validation or test.

    Raises:
        ConfigError: If none remain.
    """
    kept = tuple(
        path
        for path in paths
        if split_in_names([path.name], anywhere=True) not in ("valid", "test")
    )
    if paths and not kept:
        raise ConfigError(
            f"{paths[0]}: expected inputs to train on, found names that say validation or test"
        )
    return kept


def skipped_files(paths: Sequence[Path], *, pairs: bool = False) -> tuple[Path, ...]:
    """Return the inputs, and files of inputs, that are skipped because of their names.

    Args:
        paths: All inputs.
        pairs: Whether ``NAME.train.EXT`` and ``NAME.valid.EXT`` are the splits of a domain.

    Raises:
        ConfigError: As ``list_files``, ``divide_files`` and ``training_inputs``.
    """
    paired = [path for path in paths if pairs and _split(_stem(path.name))[1]]
    kept = training_inputs([path for path in paths if path not in paired])
    skipped = [path for path in paths if path not in (*kept, *paired)]
    for path in kept:
        skipped += divide_input(path, list_files(path), mixed=True).skipped
    return tuple(skipped)


def describe_skipped(paths: Sequence[Path], *, pairs: bool = False) -> list[str]:
    """Return a message about the result of ``skipped_files``, empty if there are none.

    Args:
        paths: All inputs.
        pairs: As for ``skipped_files``.

    Raises:
        ConfigError: As ``skipped_files``.
    """
    files = skipped_files(paths, pairs=pairs)
    if not files:
        return []
    names = ", ".join(map(str, files[:NAMES_SHOWN]))
    more = f" and {len(files) - NAMES_SHOWN:,} more" if len(files) > NAMES_SHOWN else ""
    return [f"skipped, by name (validation, test, or none beside named splits): {names}{more}"]


def list_files(path: Path) -> tuple[Path, ...]:
    """Return a file itself, or the files of a folder and its folders, sorted by path.

    Skips hidden files, those written by these tools, and beside Arrow files what Hugging Face's
    ``datasets`` notes about them. Links are followed, except to a parent
    folder; a file that is linked several times is listed once.

    Raises:
        ConfigError: If the path or something in the folder cannot be read or does not exist, or
            files with the same name in several formats suggest duplicate records.
    """
    try:
        if path.is_file():
            return (path,)
        if not path.is_dir():
            raise ConfigError(f"{path}: expected a file or folder, found none")
        return _without_notes(_each_once(_walk(path)))
    except OSError as error:
        raise ConfigError(f"{path}: expected a file or folder, found {error}") from error


def _matches(pattern: str, output: Path | None) -> list[Path]:
    if (path := Path(pattern)).exists():  # a literal path, even if it contains brackets
        if (kind := describe_generated(path)) is not None:
            raise ConfigError(f"{pattern}: expected documents, found {kind}")
        return [path]
    matched = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    written = None if output is None else _place(output)
    found = [path for path in matched if _place(path) != written and not is_generated(path)]
    if not found:
        rest = f" but {len(matched)} written by these tools" if matched else ""
        raise ConfigError(f"{pattern}: expected a file or folder, found none{rest}")
    parts = Path(pattern).parts
    named = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    for path in found:
        if (split := split_in_names(path.parts[named:-1], anywhere=True)) in ("valid", "test"):
            raise ConfigError(
                f"{path}: expected the pattern to match nothing in a folder that says {split}: "
                "name the folders to train on"
            )
    return found


def _place(path: Path) -> Path:
    """Return the canonical path, without resolving a final link."""
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and inode of a file or folder."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _each_once(files: Iterable[Path]) -> tuple[Path, ...]:
    """Return files sorted and without duplicates, preferring files to links.

    Raises:
        ConfigError: If two names differ only in their type.
    """
    found: dict[tuple[int, int], Path] = {}
    for file in files:
        identity = _identity(file)
        other = found.setdefault(identity, file)
        if other != file:
            found[identity] = min(file, other, key=lambda one: (one.resolve() != _place(one), one))
    names: dict[Path, Path] = {}
    for file in sorted(found.values()):
        kind, compression = name_type(file.name)
        cut = len(file.name) - len(compression) - (len(kind) if kind in _SAME_TEXT else 0)
        name = file.with_name(file.name[:cut] or file.name)
        other = names.setdefault(name, file)
        if other != file:
            raise ConfigError(
                f"{file}: expected its text in one file, found {other} beside it, apparently "
                "the same text in another format: remove or rename one"
            )
    return tuple(sorted(found.values()))


def _without_notes(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return files without what ``save_to_disk`` notes beside and above Arrow files."""
    if not any(file.suffix == ".arrow" for file in files):
        return files
    return tuple(file for file in files if file.name not in _ARROW_NOTES)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, linked folders last."""
    entered: set[tuple[int, int]] = set()
    folders, linked = deque([folder]), deque[Path]()
    while folders or linked:
        current = folders.popleft() if folders else linked.popleft()
        if _identity(current) in entered:
            continue
        entered.add(_identity(current))
        for path in sorted(current.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if describe_folder(path) is not None:
                    continue
                if not path.is_symlink():
                    folders.append(path)
                elif not path.parent.resolve().is_relative_to(path.resolve()):
                    linked.append(path)
            elif stat.S_ISREG(path.stat().st_mode) and not is_rejects_list(path.name):
                yield path


def _check_train(path: Path, name: str) -> None:
    """Check that the input of a domain is not named after validation or test."""
    if (split := split_in_names([name], anywhere=True)) in ("valid", "test"):
        raise ConfigError(
            f"{path}: expected an input to train on, or a pair NAME.train.EXT, NAME.valid.EXT, "
            f"found a name that says {split}: remove it from the input, or rename it"
        )


def _check_disjoint(domains: Sequence[DomainInput]) -> None:
    """Check that no file is in two domains, or in two splits of one."""
    found: dict[tuple[int, int], Path] = {}
    for path in (path for one in domains for path in (one.train, one.valid) if path):
        files = {_identity(file): file for file in list_files(path)}
        for identity in files.keys() & found.keys():
            raise ConfigError(
                f"{files[identity]}: expected each file in one input, found it in another as "
                f"{found[identity]}: its text would be read twice"
            )
        found |= files


def _check_no_split(path: Path, split: str | None) -> None:
    split = split if split in ("valid", "test") else _split(_stem(path.name))[1]
    if split:
        raise ConfigError(
            f"{path}: expected no split in the name, as domains and splits are assigned per "
            f"record, found {split}"
        )


def _name(path: Path) -> str:
    name = path.name if path.is_dir() else _stem(path.name)
    if (name == path.name and not path.is_dir()) or not name or name.startswith("."):
        raise ConfigError(f"{path}: expected {EXPECTED_TYPES}, found another name")
    return name


def _domain_name(path: Path) -> str:
    """Return the domain name of an input or of one of a pair."""
    name = _name(path)
    if not is_folder_name(_split(name)[0]):
        raise ConfigError(f"{path}: expected {FOLDER_NAME}, found {name!a}")
    return name


def _stem(name: str) -> str:
    """Return the name of a file without its type, if the type is known."""
    for suffix in FILE_TYPES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _split(name: str) -> tuple[str, str]:
    """Return the domain and split in a name; the split is empty if there is none."""
    domain, _, split = name.rpartition(".")
    return (domain, split) if domain and split in ("train", "valid") else (name, "")
