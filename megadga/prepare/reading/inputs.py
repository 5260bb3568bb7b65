"""Which inputs become which domains.

What these tools have written themselves is no input: patterns and folders leave it aside, and
where it is named outright it is refused.
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

FILE_TYPES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
NAMES_SHOWN = 3
"""Files that a line names."""
_SAME_TEXT = frozenset({".jsonl", ".ndjson", ".jsonlines", ".json", ".parquet"})
"""Formats that the same documents may come in."""
EXPECTED_TYPES = f"a folder or a file that ends in {', '.join(FILE_TYPES)}"


@dataclass(frozen=True, slots=True)
class DomainInput:
    """What one domain is built from.

    Attributes:
        name: The domain's name.
        train: A file or folder of documents.
        valid: A file or folder of documents for validation; None: those files of a folder
            ``train`` that say so, or else some of its documents.
    """

    name: str
    train: Path
    valid: Path | None


def expand_inputs(patterns: Iterable[str], *, output: Path | None = None) -> tuple[Path, ...]:
    """Return the files and folders that the patterns name, sorted, each once however spelt.

    Args:
        patterns: Paths or glob patterns; ``**`` stands for any number of folders.
        output: A file that will be written, which no pattern matches.

    Raises:
        ConfigError: If a pattern matches nothing, or something in a folder that is called after
            validation or test and is not named by the pattern itself; if a path is of something
            that these tools have written, or a folder would hold the output.
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
    """Return one domain an input, named after it; a pair of inputs makes one domain.

    ``NAME.train.EXT`` and ``NAME.valid.EXT`` (files or folders) are the two splits of ``NAME``.

    Raises:
        ConfigError: If a file is of an unknown type or its name cannot name a domain, two inputs
            make the same domain or hold the same file, half of a pair is missing, or another name
            says validation or test.
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
    """Return all files of all inputs, sorted, each once: for domains that records decide on.

    Such files are one heap of records, of which some are held out by their text. So a name that
    says a split, ``NAME.train.EXT`` or ``validation-00000-of-00001.parquet``, is refused, not
    passed over: what it keeps apart would be mixed.

    Raises:
        ConfigError: If an input does not exist or is of an unknown type, a name says a split, or
            two files hold the same records.
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
    """Return the files of an input by what is done with them; a file alone is trained on.

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
    """Return the files of one half of a pair, a file or a folder.

    Raises:
        ConfigError: If a file of the folder says another split.
    """
    files = list_files(path)
    for file in files if path.is_dir() else ():
        said = file_split(path, file)
        if said not in (None, split) and is_record(file, maybe=True):
            raise ConfigError(
                f"{file}: expected no split but {split} in {path}, found a name that says {said}"
            )
    return files


def training_files(path: Path) -> tuple[Path, ...]:
    """Return a file itself, or those files of a folder that are for training, sorted by path.

    Raises:
        ConfigError: As ``list_files`` and ``divide_files``.
    """
    return divide_input(path, list_files(path)).train


def training_inputs(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return those of some inputs that are not called after validation or test.

    Raises:
        ConfigError: If none is left.
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
    """Return the inputs, and the files of inputs, that are not read because of their names.

    Args:
        paths: All inputs.
        pairs: Whether ``NAME.train.EXT`` and ``NAME.valid.EXT`` are read as splits of a domain.

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
    """Return a line for a person that names what ``skipped_files`` returns, or none.

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
    return [
        f"left out, for names that say validation, test, or nothing beside splits: {names}{more}"
    ]


def list_files(path: Path) -> tuple[Path, ...]:
    """Return a file itself, or the files of a folder and its folders, sorted by path.

    What is hidden in the folder is left aside, and what these tools have written. Links are
    followed, but for those to a folder that holds them; a file that is there several times, by
    links of any sort, is listed once.

    Raises:
        ConfigError: If the path or something in the folder cannot be read or does not exist, or
            files of one name hold the same records in several formats, as it must be assumed.
    """
    try:
        if path.is_file():
            return (path,)
        if not path.is_dir():
            raise ConfigError(f"{path}: expected a file or folder, found none")
        return _each_once(_walk(path))
    except OSError as error:
        raise ConfigError(f"{path}: expected a file or folder, found {error}") from error


def _matches(pattern: str, output: Path | None) -> list[Path]:
    if (path := Path(pattern)).exists():  # meant as it stands, even with brackets in it
        if (kind := describe_generated(path)) is not None:
            raise ConfigError(f"{pattern}: expected documents, found {kind}")
        return [path]
    matched = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    written = None if output is None else _place(output)
    found = [path for path in matched if _place(path) != written and not is_generated(path)]
    if not found:
        rest = f" but {len(matched)} that these tools have written" if matched else ""
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
    """Return where a path is, however it is spelt; a link remains one."""
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells a file or folder from any other on this machine."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _each_once(files: Iterable[Path]) -> tuple[Path, ...]:
    """Return files sorted, of those that are the same one the one that is no link.

    Raises:
        ConfigError: If two have one name but for their types.
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
                f"{file}: expected its text in one file, found {other} beside it, by all "
                "appearances the same in another format: remove or rename one"
            )
    return tuple(sorted(found.values()))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; those that links lead to after all others."""
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
    """Check that an input that makes a domain is not called after validation or test."""
    if (split := split_in_names([name], anywhere=True)) in ("valid", "test"):
        raise ConfigError(
            f"{path}: expected an input to train on, or a pair NAME.train.EXT, NAME.valid.EXT, "
            f"found a name that says {split}: leave it out, or rename it if it says no split"
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
            f"{path}: expected no split in the name, for the records decide on domains and "
            f"splits, found {split}"
        )


def _name(path: Path) -> str:
    name = path.name if path.is_dir() else _stem(path.name)
    if (name == path.name and not path.is_dir()) or not name or name.startswith("."):
        raise ConfigError(f"{path}: expected {EXPECTED_TYPES}, found another name")
    return name


def _domain_name(path: Path) -> str:
    """Return the name of the domain that an input makes, or its half of a pair."""
    name = _name(path)
    if not is_folder_name(_split(name)[0]):
        raise ConfigError(f"{path}: expected {FOLDER_NAME}, found {name!a}")
    return name


def _stem(name: str) -> str:
    """Return the name of a file without its type, all of it if that is none that is known."""
    for suffix in FILE_TYPES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _split(name: str) -> tuple[str, str]:
    """Return what a name says of domain and split; the split is empty if it says none."""
    domain, _, split = name.rpartition(".")
    return (domain, split) if domain and split in ("train", "valid") else (name, "")
