"""``clusters.json``: what a clustering's folder says of itself. Knows no embedding, no centre."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import EmbeddingKind
from megadga.prepare.clustering.tree import check_levels
from megadga.shards.files import written_whole

FILE_NAME = "clusters.json"
VERSION = 1

_TYPES: Mapping[str, type] = {
    "version": int,
    "embedder": str,
    "embedder_fingerprint": str,
    "embedder_path": str,
    "levels": list,
    "fingerprint": str,
}


@dataclass(frozen=True, slots=True)
class ClusteringRecord:
    """Everything in ``clusters.json`` but its version.

    Attributes:
        embedder: Which embedding it is.
        embedder_fingerprint: SHA-256, hexadecimal.
        embedder_path: Where a sentence-transformers model was; the file's name for TF-IDF.
        levels: Numbers of clusters, from coarse to fine.
        fingerprint: Of the clustering, SHA-256, hexadecimal.
    """

    embedder: EmbeddingKind
    embedder_fingerprint: str
    embedder_path: str
    levels: tuple[int, ...]
    fingerprint: str


def write_record(folder: Path, record: ClusteringRecord) -> None:
    """Write ``clusters.json`` into ``folder``, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    content = {"version": VERSION, **asdict(record)}
    with written_whole(folder / FILE_NAME) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def read_record(folder: Path) -> ClusteringRecord:
    """Return what ``clusters.json`` says.

    Raises:
        ConfigError: If there is none, or a key is missing, unknown or of a wrong type or value.
    """
    path = folder / FILE_NAME
    try:
        content: object = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: expected a clustering, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, found {error}") from error
    fields = _fields(content, str(path))
    if fields["version"] != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, found {fields['version']}")
    if fields["embedder"] not in get_args(EmbeddingKind):
        known = " or ".join(get_args(EmbeddingKind))
        raise ConfigError(f"{path}: embedder: expected {known}, found {fields['embedder']!r}")
    if not all(type(level) is int for level in fields["levels"]):
        raise ConfigError(f"{path}: levels: expected integers, found {fields['levels']!r:.60}")
    try:
        levels = check_levels(fields["levels"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return ClusteringRecord(
        embedder=fields["embedder"],
        embedder_fingerprint=fields["embedder_fingerprint"],
        embedder_path=fields["embedder_path"],
        levels=levels,
        fingerprint=fields["fingerprint"],
    )


def _fields(content: object, path: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object, found {type(content).__name__}")
    fields = cast("dict[str, Any]", content)
    if fields.keys() != _TYPES.keys():
        raise ConfigError(
            f"{path}: expected the keys {', '.join(_TYPES)}, found {list(fields)!r:.200}"
        )
    for key, kind in _TYPES.items():
        if type(fields[key]) is not kind:  # a bool is no number
            raise ConfigError(
                f"{path}: {key}: expected {kind.__name__}, found {type(fields[key]).__name__} "
                f"{json.dumps(fields[key])[:60]}"
            )
    return fields
