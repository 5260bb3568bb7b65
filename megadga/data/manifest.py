"""``manifest.json`` of a folder of shards, and which tokens belong to which domain."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, cast

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

from megadga.arrays import IntArray
from megadga.data.files import atomic_write, checksum, parse_strictly
from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.data.records import Text, Whole, parse_record
from megadga.errors import ShardError

MANIFEST_FILE = "manifest.json"


VERSION = 1


MOST_IDS = 1 << 31
"""What int32, the widest type of tokens that is written, can tell apart."""


def _check_name(file: str) -> str:
    # What cannot be printed is no name to the system (NUL, half a surrogate pair) or breaks lines.
    if file in ("", ".", "..") or "/" in file or not file.isprintable():
        raise ValueError(f"expected a name without folders, found {file!r}")
    return file


FileName = Annotated[Text, AfterValidator(_check_name)]


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """What two sets of shards must share to be trained on together.

    Attributes:
        kind: The library that reads the model, ``"sentencepiece"``.
        fingerprint: SHA-256 of the model file, hexadecimal.
        vocab_size: Ids are in ``[0, vocab_size)``.
        eod: The id that ends every document.
    """

    kind: Text
    fingerprint: Text
    vocab_size: Annotated[Whole, Field(le=MOST_IDS)]
    eod: Whole


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a manifest says of one shard.

    Attributes:
        file: Name of both files without ``.bin`` and ``.idx``.
        documents: Documents in it.
        tokens: Tokens in it.
        max_token: The largest id in it, -1 without tokens.
        bin_sha256: Checksum of the ``.bin``, hexadecimal.
        idx_sha256: Checksum of the ``.idx``, hexadecimal.
        ids_sha256: Checksum of the ``.ids``, which has a JSON string a line, the id that each
            document had where it came from; None: no ids were kept.
    """

    file: FileName
    documents: Whole
    tokens: Whole
    max_token: Annotated[int, Field(strict=True, ge=-1)]
    bin_sha256: Text
    idx_sha256: Text
    ids_sha256: Text | None = None


@dataclass(frozen=True, slots=True)
class GroupingEntry:
    """What a manifest says of the file that divides its shards into many domains.

    Attributes:
        file: Its name.
        domains: Domains in it (``K``).
        sha256: Its checksum, hexadecimal.
        classifier: Fingerprint of the clustering and level that sorted documents into them,
            hexadecimal, which histograms and bases over them share; None: files or records did.
    """

    file: FileName
    domains: Annotated[int, Field(strict=True, ge=1)]
    sha256: Text
    classifier: Text | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a domain's folder holds.

    Attributes:
        name: The domain's name when it was built; the folder's name is what counts.
        tokenizer: What turned its text into ids.
        splits: Shards in order, by split (``"train"``, ``"valid"``).
        grouping: What divides the shards into many domains; None: they are one domain.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: Text
    tokenizer: TokenizerIdentity
    splits: Mapping[str, tuple[ShardEntry, ...]]
    grouping: GroupingEntry | None = None

    def num_documents(self, split: str) -> int:
        """Return the documents of a split, 0 if there is no such split."""
        return sum(entry.documents for entry in self.splits.get(split, ()))

    def num_tokens(self, split: str) -> int:
        """Return the tokens of a split, 0 if there is no such split."""
        return sum(entry.tokens for entry in self.splits.get(split, ()))


def manifest_path(folder: Path) -> Path:
    """Return where a domain's folder has its manifest."""
    return folder / MANIFEST_FILE


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder``, whole or not at all.

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
        content: object = parse_strictly(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShardError(
            f"{path}: expected a domain's manifest, found {error.strerror}"
        ) from error
    except ValueError as error:
        raise ShardError(f"{path}: expected JSON, found {error}") from error
    try:
        return _parse(content, str(path))
    except ValueError as error:
        raise ShardError(str(error)) from None


_MANIFEST = TypeAdapter(Manifest)


def _parse(content: object, path: str) -> Manifest:
    if isinstance(content, dict):  # first of all: another version may have other keys
        content = cast("dict[str, object]", content)
        version = content.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise ValueError(f"{path}: version: expected {VERSION}, found {version!r}")
    types = {"tuple_type": "a list of shards"}
    manifest = parse_record(_MANIFEST, content, place=path, types=types)
    tokenizer = manifest.tokenizer
    if tokenizer.eod >= tokenizer.vocab_size:
        raise ValueError(
            f"{path}: tokenizer.eod: expected an id below vocab_size = {tokenizer.vocab_size}, "
            f"found {tokenizer.eod}"
        )
    return manifest


BOUNDS_FILE = "domains.npz"


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
    path = folder / BOUNDS_FILE
    write_arrays(path, arrays)
    return GroupingEntry(BOUNDS_FILE, len(grouping.names), checksum(path), grouping.classifier)


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
