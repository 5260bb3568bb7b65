"""The manifest of a folder of shards, and the bounds of domains that share shards."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

from megadga.arrays import IntArray
from megadga.data.files import atomic_write, checksum, parse_strictly
from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.data.records import NonNegativeInt, Text, parse_record
from megadga.errors import ShardError

MANIFEST_FILE = "manifest.json"


VERSION = 1


MAX_VOCAB_SIZE = 1 << 31
"""Number of non-negative int32 values; int32 is the widest token type that is written."""


def _check_name(file: str) -> str:
    # Unprintable characters are invalid in file names (NUL, lone surrogates) or break lines.
    if file in ("", ".", "..") or "/" in file or not file.isprintable():
        raise ValueError(f"expected a name without folders, found {file!r}")
    return file


FileName = Annotated[Text, AfterValidator(_check_name)]


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """Identity of a tokenizer; all shards of a run must have the same one.

    Attributes:
        kind: Library of the model: ``"sentencepiece"`` or ``"huggingface"``.
        fingerprint: SHA-256 of the model file, as hex digits.
        vocab_size: Ids are in ``[0, vocab_size)``.
        eod: The id that ends every document.
    """

    kind: Text
    fingerprint: Text
    vocab_size: Annotated[NonNegativeInt, Field(le=MAX_VOCAB_SIZE)]
    eod: NonNegativeInt


_SCORE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_score_name(name: str) -> str:
    """Return a name of scores, which is a part of their files' names.

    Raises:
        ValueError: If it has other characters than letters, digits, ``_`` and ``-``.
    """
    if _SCORE_NAME.fullmatch(name) is None:
        raise ValueError(f"expected a name of letters, digits, _ and -, found {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class ScoresEntry:
    """Manifest entry of the scores that a shard's documents have by one scorer.

    Attributes:
        scorer: What the scores depend on, beside each document: equal for scores that can be
            compared with each other.
        sha256: Checksum of their file (see ``scores``), as hex digits.
    """

    scorer: Text
    sha256: Text


ScoreName = Annotated[Text, AfterValidator(check_score_name)]


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
        spans_sha256: Checksum of the ``.spans``, which has the spans of trained tokens; None if
            the loss is taken on all.
        trained_tokens: Number of tokens in these spans; None without.
        scores: Scores of the documents, by name.
    """

    file: FileName
    documents: NonNegativeInt
    tokens: NonNegativeInt
    max_token: Annotated[int, Field(strict=True, ge=-1)]
    bin_sha256: Text
    idx_sha256: Text
    ids_sha256: Text | None = None
    spans_sha256: Text | None = None
    trained_tokens: NonNegativeInt | None = None
    scores: Mapping[ScoreName, ScoresEntry] = field(default_factory=dict[str, ScoresEntry])


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

    file: FileName
    domains: Annotated[int, Field(strict=True, ge=1)]
    sha256: Text
    classifier: Text | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of a domain's folder.

    Attributes:
        name: The domain's name when it was built; the folder's name takes precedence.
        tokenizer: The tokenizer of its shards.
        splits: Shards in order, by split (``"train"``, ``"valid"``).
        grouping: Bounds of the domains in the shards; None for a single domain.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: Text
    tokenizer: TokenizerIdentity
    splits: Mapping[str, tuple[ShardEntry, ...]]
    grouping: GroupingEntry | None = None

    def num_documents(self, split: str) -> int:
        """Return the number of documents of a split, 0 if there is no such split."""
        return sum(entry.documents for entry in self.splits.get(split, ()))

    def num_tokens(self, split: str) -> int:
        """Return the number of tokens of a split, 0 if there is no such split."""
        return sum(entry.tokens for entry in self.splits.get(split, ()))

    def num_trained(self, split: str) -> int | None:
        """Return the number of trained tokens of a split; None if a shard has no trained spans."""
        counts = [entry.trained_tokens for entry in self.splits.get(split, ())]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) and known else None


def manifest_path(folder: Path) -> Path:
    """Return the path of a folder's manifest."""
    return folder / MANIFEST_FILE


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder`` atomically.

    Raises:
        OSError: If it cannot be written.
    """
    content: dict[str, Any] = {"version": VERSION, **asdict(manifest)}
    for entries in content["splits"].values():
        for entry in entries:
            if not entry["scores"]:  # described as before there were scores
                del entry["scores"]
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
    if isinstance(content, dict):  # checked first: other versions may have other keys
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
