"""Many domains in shared shards: which tokens are whose. Knows no shard.

``domains.npz`` holds ``names``, the domains' names as UTF-8 with a newline between two (uint8),
and for each split ``<split>_tokens`` and ``<split>_documents``, int64 ``(K + 1,)``: domain ``i``
has the tokens ``[b_i, b_(i+1))`` of the concatenation of that split's shards, and as many of its
documents.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.shards.files import checksum
from megadga.shards.manifest import GroupingEntry, Manifest
from megadga.shards.npz import ArraySpec, read_arrays, write_arrays

FILE_NAME = "domains.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Where each domain begins in one split; the next one's begin is its end.

    Attributes:
        tokens: Rising from 0 to the split's tokens, shape ``(K + 1,)``.
        documents: Rising from 0 to the split's documents, shape ``(K + 1,)``.
    """

    tokens: IntArray
    documents: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """How the shards of a folder are divided into ``K`` domains.

    Attributes:
        names: What the domains are called, in the order of their tokens.
        bounds: Where they begin, by split.
        classifier: What sorted documents into them; see ``GroupingEntry``.
    """

    names: tuple[str, ...]
    bounds: Mapping[str, Bounds]
    classifier: str | None = None


def write_grouping(folder: Path, grouping: Grouping) -> GroupingEntry:
    """Write a folder's ``domains.npz``, whole or not at all.

    Args:
        folder: Where the shards lie.
        grouping: At least one domain; their names are different, not empty, and of one line.

    Returns:
        What the folder's manifest has to say of it.

    Raises:
        OSError: If it cannot be written.
        ValueError: If names or bounds are not what they must be.
    """
    _check(grouping)
    arrays = {"names": np.frombuffer("\n".join(grouping.names).encode(), dtype=np.uint8)}
    for split, bounds in grouping.bounds.items():
        arrays |= {f"{split}_tokens": bounds.tokens, f"{split}_documents": bounds.documents}
    path = folder / FILE_NAME
    write_arrays(path, arrays)
    return GroupingEntry(FILE_NAME, len(grouping.names), checksum(path), grouping.classifier)


def read_grouping(folder: Path, manifest: Manifest) -> Grouping:
    """Return how a folder's shards are divided into domains.

    Args:
        folder: Where the shards lie.
        manifest: The folder's; it has a ``grouping``.

    Raises:
        ShardError: If the file is missing or damaged, or contradicts the manifest.
    """
    entry = manifest.grouping
    assert entry is not None, "the folder is one domain"
    path = folder / entry.file
    try:
        _expect(path, "checksum", entry.sha256, checksum(path))
    except OSError as error:
        raise ShardError(f"{path}: expected a grouping, found {error.strerror}") from error
    specs = {"names": ArraySpec(("|u1",), ndim=1)}
    for split in manifest.splits:
        specs |= dict.fromkeys((f"{split}_tokens", f"{split}_documents"), ArraySpec(("<i8",), 1))
    arrays = read_arrays(path, specs)
    try:
        names = tuple(arrays["names"].tobytes().decode().split("\n"))
        bounds = {
            split: Bounds(arrays[f"{split}_tokens"], arrays[f"{split}_documents"])
            for split in manifest.splits
        }
        _check(grouping := Grouping(names, bounds, entry.classifier))
    except ValueError as error:
        raise ShardError(f"{path}: {error}") from error
    _expect(path, "domains", entry.domains, len(names))
    for split, found in bounds.items():
        _expect(path, f"{split}_tokens", manifest.num_tokens(split), int(found.tokens[-1]))
        documents = manifest.num_documents(split)
        _expect(path, f"{split}_documents", documents, int(found.documents[-1]))
    return grouping


def _expect(path: Path, key: str, stated: str | int, found: str | int) -> None:
    if found != stated:
        raise ShardError(f"{path}: {key}: expected {stated} by the manifest, found {found}")


def _check(grouping: Grouping) -> None:
    """Check what can be checked without the manifest.

    Raises:
        ValueError: If something is wrong; one line.
    """
    names = grouping.names
    if not names:
        raise ValueError("names: expected at least one, found none")
    if not all(names) or any("\n" in name for name in names):
        raise ValueError("names: expected names of one line, found an empty or a longer one")
    if len(set(names)) < len(names):
        twice, count = Counter(names).most_common(1)[0]
        raise ValueError(f"names: expected different ones, found {twice!r} {count} times")
    for split, bounds in grouping.bounds.items():
        for key, array in (("tokens", bounds.tokens), ("documents", bounds.documents)):
            if array.shape != (len(names) + 1,):
                raise ValueError(
                    f"{split}_{key}: expected {len(names) + 1} bounds of {len(names)} domains, "
                    f"found shape {array.shape}"
                )
            if array[0] != 0 or (array[1:] < array[:-1]).any():
                raise ValueError(f"{split}_{key}: expected bounds that rise from 0, found others")
