"""Which inputs become which domains. Knows paths only, and opens no file."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError

FILE_TYPES = (".jsonl.gz", ".jsonl", ".txt")
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


def expand_inputs(patterns: Iterable[str]) -> tuple[Path, ...]:
    """Return the files and folders that the patterns name, sorted, each once.

    Args:
        patterns: Paths or glob patterns; ``**`` stands for any number of folders.

    Raises:
        ConfigError: If a pattern matches nothing.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        paths.update(_matches(pattern))
    return tuple(sorted(paths))


def plan_domains(paths: Sequence[Path]) -> tuple[DomainInput, ...]:
    """Return one domain an input, named after it; a pair of inputs makes one domain.

    ``NAME.train.EXT`` and ``NAME.valid.EXT`` (files or folders) are the two splits of ``NAME``.

    Raises:
        ConfigError: If a file is of an unknown type, two inputs make the same domain, or half of a
            pair is missing.
    """
    names: dict[str, Path] = {}
    for path in paths:
        name = _name(path)
        if name in names:
            raise ConfigError(
                f"{path}: expected one input for the domain {name}, found {names[name]} too"
            )
        names[name] = path
    domains: list[DomainInput] = []
    for name, path in names.items():
        stem, _, split = name.rpartition(".")
        if split not in ("train", "valid") or not stem:
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


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).exists():  # meant as it stands, even with brackets in it
        return [Path(pattern)]
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute ones)
    if not found:
        raise ConfigError(f"{pattern}: expected a file or folder, found none")
    return [Path(name) for name in found]


def _name(path: Path) -> str:
    suffixes = ("",) if path.is_dir() else FILE_TYPES
    for suffix in suffixes:
        name = path.name.removesuffix(suffix)
        if path.name.endswith(suffix) and name and not name.startswith("."):
            return name
    raise ConfigError(f"{path}: expected {EXPECTED_TYPES}, found another name")
