"""The manifest of a folder of shards, and the bounds of domains that share shards."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, cast

import numpy as np

from megadga.arrays import IntArray
from megadga.data.files import atomic_write, checksum, parse_strictly
from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.errors import ShardError

MANIFEST_FILE = "manifest.json"


VERSION = 1


MAX_VOCAB_SIZE = 1 << 31
"""Number of non-negative int32 values; int32 is the widest token type that is written."""


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """Identity of a tokenizer; all shards of a run must have the same one.

    Attributes:
        kind: Library of the model: ``"sentencepiece"`` or ``"huggingface"``.
        fingerprint: SHA-256 of the model file, as hex digits.
        vocab_size: Ids are in ``[0, vocab_size)``.
        eod: The id that ends every document.
    """

    kind: str
    fingerprint: str
    vocab_size: int
    eod: int


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Manifest entry of one shard.

    Attributes:
        file: Name of both files without ``.bin`` and ``.idx``.
        documents: Number of documents.
        tokens: Number of tokens.
        max_token: The largest token id, -1 without tokens.
        bin_sha256: Checksum of the ``.bin``, as hex digits.
        idx_sha256: Checksum of the ``.idx``, as hex digits.
        ids_sha256: Checksum of the ``.ids``, which has one JSON string per line, the id of each
            document's source record; None if ids were not kept.
    """

    file: str
    documents: int
    tokens: int
    max_token: int
    bin_sha256: str
    idx_sha256: str
    ids_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class GroupingEntry:
    """Manifest entry of the file with the bounds of domains that share shards.

    Attributes:
        file: Its name.
        domains: Number of domains (``K``).
        sha256: Its checksum, as hex digits.
        classifier: Fingerprint (hex digits) of the clustering and level that assigned documents to
            domains, also stored in histograms and bases over them; None: files or records did.
    """

    file: str
    domains: int
    sha256: str
    classifier: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of a domain's folder.

    Attributes:
        name: The domain's name when it was built; the folder's name takes precedence.
        tokenizer: The tokenizer of its shards.
        splits: Shards in order, by split (``"train"``, ``"valid"``).
        grouping: Bounds of the domains in the shards; None for a single domain.
    """

    name: str
    tokenizer: TokenizerIdentity
    splits: Mapping[str, tuple[ShardEntry, ...]]
    grouping: GroupingEntry | None = None

    def num_documents(self, split: str) -> int:
        """Return the number of documents of a split, 0 if there is no such split."""
        return sum(entry.documents for entry in self.splits.get(split, ()))

    def num_tokens(self, split: str) -> int:
        """Return the number of tokens of a split, 0 if there is no such split."""
        return sum(entry.tokens for entry in self.splits.get(split, ()))


def manifest_path(folder: Path) -> Path:
    """Return the path of a folder's manifest."""
    return folder / MANIFEST_FILE


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder`` atomically.

    Raises:
        OSError: If it cannot be written.
    """
    content = {"version": VERSION, **asdict(manifest)}
    with atomic_write(manifest_path(folder)) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a domain's folder.

    Raises:
        ShardError: If there is none, or a key is missing, unknown or of a wrong type; names the
            file and the key.
    """
    path = manifest_path(folder)
    try:
        text = path.read_text(encoding="utf-8")
        return _parse(parse_strictly(text), str(path))
    except OSError as error:
        raise ShardError(
            f"{path}: expected a domain's manifest, found {error.strerror}"
        ) from error
    except ValueError as error:
        raise ShardError(f"{path}: expected JSON, found {error}") from error


_FieldTypes = Mapping[str, tuple[type, ...]]


_MANIFEST: _FieldTypes = {
    "version": (int,),
    "name": (str,),
    "tokenizer": (dict,),
    "splits": (dict,),
    "grouping": (dict, NoneType),
}


_TOKENIZER: _FieldTypes = {
    "kind": (str,),
    "fingerprint": (str,),
    "vocab_size": (int,),
    "eod": (int,),
}


_SHARD: _FieldTypes = {
    "file": (str,),
    "documents": (int,),
    "tokens": (int,),
    "max_token": (int,),
    "bin_sha256": (str,),
    "idx_sha256": (str,),
    "ids_sha256": (str, NoneType),
}


_GROUPING: _FieldTypes = {
    "file": (str,),
    "domains": (int,),
    "sha256": (str,),
    "classifier": (str, NoneType),
}


def _parse(content: object, path: str) -> Manifest:
    top = _object(content, place=path)
    if top.get("version") != VERSION:  # checked first: other versions may have other keys
        raise ShardError(f"{path}: version: expected {VERSION}, found {top.get('version')!r}")
    _fields(top, _MANIFEST, place=path)
    tokenizer = TokenizerIdentity(
        **_fields(top["tokenizer"], _TOKENIZER, place=f"{path}: tokenizer")
    )
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ShardError(
            f"{path}: tokenizer.vocab_size: expected at most {MAX_VOCAB_SIZE}, "
            f"found {tokenizer.vocab_size}"
        )
    if not 0 <= tokenizer.eod < tokenizer.vocab_size:
        raise ShardError(
            f"{path}: tokenizer.eod: expected an id below vocab_size = {tokenizer.vocab_size}, "
            f"found {tokenizer.eod}"
        )
    splits = {
        name: _shards(shards, place=f"{path}: splits.{_quote_key(name)}")
        for name, shards in top["splits"].items()
    }
    grouping = _grouping(top["grouping"], place=f"{path}: grouping")
    return Manifest(top["name"], tokenizer, splits, grouping)


def _shards(value: object, *, place: str) -> tuple[ShardEntry, ...]:
    if not isinstance(value, list):
        raise ShardError(f"{place}: expected a list of shards, found {_describe(value)}")
    entries = tuple(
        ShardEntry(**_fields(item, _SHARD, place=f"{place}[{index}]"))
        for index, item in enumerate(cast("list[object]", value))
    )
    for index, entry in enumerate(entries):
        _check_name(entry.file, place=f"{place}[{index}].file")
        for key, least in (("documents", 0), ("tokens", 0), ("max_token", -1)):
            if (count := getattr(entry, key)) < least:
                raise ShardError(
                    f"{place}[{index}].{key}: expected at least {least}, found {count}"
                )
    return entries


def _grouping(value: object, *, place: str) -> GroupingEntry | None:
    if value is None:
        return None
    entry = GroupingEntry(**_fields(value, _GROUPING, place=place))
    _check_name(entry.file, place=f"{place}.file")
    if entry.domains < 1:
        raise ShardError(f"{place}.domains: expected at least 1, found {entry.domains}")
    return entry


def _check_name(file: str, *, place: str) -> None:
    # Unprintable characters are invalid in file names (NUL, lone surrogates) or break lines.
    if file in ("", ".", "..") or "/" in file or not file.isprintable():
        raise ShardError(f"{place}: expected a name without folders, found {file!r}")


def _fields(value: object, types: _FieldTypes, *, place: str) -> dict[str, Any]:
    """Return a JSON object after checking that it has exactly these keys, of these types."""
    fields = _object(value, place=place)
    if fields.keys() != types.keys():
        missing = ", ".join(sorted(types.keys() - fields.keys())) or "none missing"
        unknown = (
            ", ".join(map(_quote_key, sorted(fields.keys() - types.keys()))) or "none unknown"
        )
        raise ShardError(
            f"{place}: expected the keys {', '.join(types)}, "
            f"found missing: {missing}, unknown: {unknown}"
        )
    for key, kinds in types.items():
        if type(fields[key]) not in kinds:  # exact types: bool is a subclass of int
            names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            raise ShardError(f"{place}: {key}: expected {names}, found {_describe(fields[key])}")
    return fields


def _object(value: object, *, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ShardError(f"{place}: expected an object, found {_describe(value)}")
    return cast("dict[str, Any]", value)


def _quote_key(key: str) -> str:
    return key if key.isidentifier() else repr(key)


def _describe(value: object) -> str:
    return f"{type(value).__name__} {json.dumps(value)[:60]}"


BOUNDS_FILE = "domains.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Offsets of the domains in one split; each domain ends where the next one begins.

    Attributes:
        tokens: Non-decreasing, from 0 to the split's tokens, shape ``(K + 1,)``.
        documents: Non-decreasing, from 0 to the split's documents, shape ``(K + 1,)``.
    """

    tokens: IntArray
    documents: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Division of a folder's shards into ``K`` domains.

    Attributes:
        names: The domains' names, in the order of their tokens.
        bounds: Their offsets, by split.
        classifier: Fingerprint of the classifier; see ``GroupingEntry``.
    """

    names: tuple[str, ...]
    bounds: Mapping[str, Bounds]
    classifier: str | None = None


def write_grouping(folder: Path, grouping: Grouping) -> GroupingEntry:
    """Write a folder's ``domains.npz`` atomically.

    Args:
        folder: Folder of the shards.
        grouping: At least one domain; names are unique, not empty, and have no line breaks.

    Returns:
        Its manifest entry.

    Raises:
        OSError: If it cannot be written.
        ValueError: If names or bounds are invalid.
    """
    _check(grouping)
    arrays = {"names": np.frombuffer("\n".join(grouping.names).encode(), dtype=np.uint8)}
    for split, bounds in grouping.bounds.items():
        arrays |= {f"{split}_tokens": bounds.tokens, f"{split}_documents": bounds.documents}
    path = folder / BOUNDS_FILE
    write_arrays(path, arrays)
    return GroupingEntry(BOUNDS_FILE, len(grouping.names), checksum(path), grouping.classifier)


def read_grouping(folder: Path, manifest: Manifest) -> Grouping:
    """Read the division of a folder's shards into domains.

    Args:
        folder: Folder of the shards.
        manifest: The folder's manifest, with a ``grouping``.

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
    """Check a grouping for internal consistency.

    Raises:
        ValueError: If it is invalid; one line.
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
