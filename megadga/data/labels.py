"""What is in domains, in words: ``labels.json`` beside their shards."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast, final

from pydantic import ConfigDict, TypeAdapter

from megadga.data.files import atomic_write, parse_strictly
from megadga.data.records import parse_record
from megadga.errors import ShardError

FILE = "labels.json"
VERSION = 1
NUM_SHOWN = 5
"""Words of a label where it stands beside a name."""


@final
@dataclass(frozen=True)
class Label:
    """What is in a domain.

    Attributes:
        words: Its most distinctive words, the most distinctive one first.
        examples: Beginnings of some of its documents, shortened.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    words: tuple[str, ...]
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The first words, on one line; empty without any."""
        return ", ".join(self.words[:NUM_SHOWN])


@final
@dataclass(frozen=True)
class Parent:
    """A cluster of the level above, of a tree of clusters.

    Attributes:
        words: The most distinctive words of all its domains together.
        domains: Their names.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    words: tuple[str, ...]
    domains: tuple[str, ...]

    @property
    def text(self) -> str:
        """The first words, on one line; empty without any."""
        return ", ".join(self.words[:NUM_SHOWN])


@final
@dataclass(frozen=True)
class Labels:
    """What is in the domains of a folder.

    Attributes:
        domains: By the domain's name; empty domains have none.
        parents: By the name of the cluster of the level above; empty where domains are no clusters
            of a tree.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    domains: Mapping[str, Label]
    parents: Mapping[str, Parent] = field(default_factory=dict[str, Parent])


_LABELS = TypeAdapter(Labels)


def labels_path(folder: Path) -> Path:
    """Return the path of the labels of the domains in a folder."""
    return folder / FILE


def write_labels(folder: Path, labels: Labels) -> Path:
    """Write labels beside the shards of a folder of domains, atomically; return the path.

    Raises:
        OSError: If they cannot be written.
    """
    path = labels_path(folder)
    content = {"version": VERSION, **asdict(labels)}
    with atomic_write(path) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")
    return path


def read_labels(folder: Path) -> Labels | None:
    """Return the labels of the domains in a folder; None: there are none.

    Raises:
        ShardError: If the file is damaged.
    """
    path = labels_path(folder)
    try:
        content: object = parse_strictly(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: expected labels of domains, found {error}") from None
    read = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if (version := read.pop("version", None)) != VERSION:
        raise ShardError(f"{path}: version: expected {VERSION}, found {version!r}")
    try:
        return parse_record(_LABELS, read, place=str(path))
    except ValueError as error:
        raise ShardError(str(error)) from None
