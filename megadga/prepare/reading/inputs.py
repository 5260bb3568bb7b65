"""Which inputs become which domains. Knows paths only, and opens no file.

What these tools have written themselves is no input: patterns and folders leave it aside, and
where it is named outright it is refused.
"""

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError
from megadga.prepare.reading.products import (
    describe_folder,
    describe_product,
    is_product,
    is_rejects_list,
)
from megadga.prepare.reading.records import FOLDER_NAME, is_folder_name

FILE_TYPES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
EXPECTED_TYPES = f"a folder or a file that ends in {', '.join(FILE_TYPES)}"


@dataclass(frozen=True, slots=True)
class DomainInput:
    """What one domain is built from.

    Attributes:
        name: The domain's name.
        train: A file or folder of documents.
        valid: A file or folder of documents for validation; None: some of ``train`` are held out.
    """

    name: str
    train: Path
    valid: Path | None


def expand_inputs(patterns: Iterable[str], *, output: Path | None = None) -> tuple[Path, ...]:
    """Return the files and folders that the patterns name, sorted, each once.

    Args:
        patterns: Paths or glob patterns; ``**`` stands for any number of folders.
        output: A file that will be written, which no pattern matches.

    Raises:
        ConfigError: If a pattern matches nothing, a path is of something that these tools have
            written, or a folder would hold the output.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        paths.update(_matches(pattern, output))
    for path in paths:
        if output is not None and output.resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"{output}: expected an output outside of the inputs, found it in {path}"
            )
    return tuple(sorted(paths))


def plan_domains(paths: Sequence[Path]) -> tuple[DomainInput, ...]:
    """Return one domain an input, named after it; a pair of inputs makes one domain.

    ``NAME.train.EXT`` and ``NAME.valid.EXT`` (files or folders) are the two splits of ``NAME``.

    Raises:
        ConfigError: If a file is of an unknown type or its name cannot name a domain, two inputs
            make the same domain, or half of a pair is missing.
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
    return tuple(domains)


def plan_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return all files of all inputs, sorted, each once: for domains that records decide on.

    Such files are one heap of records, of which some are held out by their text. So a name that
    says ``NAME.train.EXT`` or ``NAME.valid.EXT`` is refused, not passed over: what it keeps apart
    would be mixed.

    Raises:
        ConfigError: If an input does not exist or is of an unknown type, or a name says a split.
    """
    for path in paths:
        _name(path)
    files = sorted({file for path in paths for file in list_files(path)})
    for path in (*paths, *files):
        if split := _split(_stem(path.name))[1]:
            raise ConfigError(
                f"{path}: expected no split in the name, for the records decide on domains and "
                f"splits, found {split}"
            )
    return tuple(files)


def list_files(path: Path) -> tuple[Path, ...]:
    """Return a file itself, or the files of a folder and its folders, sorted by path.

    What is hidden in the folder is left aside, as are links to other folders and what these tools
    have written.

    Raises:
        ConfigError: If the path or something in the folder cannot be read or does not exist.
    """
    try:
        if path.is_file():
            return (path,)
        if not path.is_dir():
            raise ConfigError(f"{path}: expected a file or folder, found none")
        return tuple(sorted(_walk(path)))
    except OSError as error:
        raise ConfigError(f"{path}: expected a file or folder, found {error}") from error


def _matches(pattern: str, output: Path | None) -> list[Path]:
    if (path := Path(pattern)).exists():  # meant as it stands, even with brackets in it
        if (kind := describe_product(path)) is not None:
            raise ConfigError(f"{pattern}: expected documents, found {kind}")
        return [path]
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute ones)
    written = None if output is None else output.absolute()
    matched = [Path(name) for name in names]
    found = [path for path in matched if path.absolute() != written and not is_product(path)]
    if not found:
        rest = f" but {len(matched)} that these tools have written" if matched else ""
        raise ConfigError(f"{pattern}: expected a file or folder, found none{rest}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and describe_folder(Path(parent, name)) is None
        ]
        for name in names:
            file = Path(parent, name)
            if name.startswith(".") or is_rejects_list(name):
                continue
            if stat.S_ISREG(file.stat().st_mode):
                yield file


def _refuse(error: OSError) -> None:
    raise error  # os.walk passes over folders that it cannot read unless told otherwise


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
