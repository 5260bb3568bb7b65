"""The manifest of a domain's folder: which shards, how large, by which tokenizer.

Knows the manifest's file alone: whether the shards are there and agree is seen on opening them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, cast

from megadga.errors import ShardError
from megadga.shards.files import written_whole
from megadga.shards.strict_json import parse_strictly

FILE_NAME = "manifest.json"
VERSION = 1
MOST_IDS = 1 << 31
"""What int32, the widest type of tokens that is written, can tell apart."""


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """What two sets of shards must share to be trained on together.

    Attributes:
        kind: The library that reads the model, ``"sentencepiece"``.
        fingerprint: SHA-256 of the model file, hexadecimal.
        vocab_size: Ids are in ``[0, vocab_size)``.
        eod: The id that ends every document.
    """

    kind: str
    fingerprint: str
    vocab_size: int
    eod: int


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

    file: str
    documents: int
    tokens: int
    max_token: int
    bin_sha256: str
    idx_sha256: str
    ids_sha256: str | None = None


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

    file: str
    domains: int
    sha256: str
    classifier: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a domain's folder holds.

    Attributes:
        name: The domain's name when it was built; the folder's name is what counts.
        tokenizer: What turned its text into ids.
        splits: Shards in order, by split (``"train"``, ``"valid"``).
        grouping: What divides the shards into many domains; None: they are one domain.
    """

    name: str
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
    return folder / FILE_NAME


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder``, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    content = {"version": VERSION, **asdict(manifest)}
    with written_whole(manifest_path(folder)) as file:
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


_Types = Mapping[str, tuple[type, ...]]
_TOP: _Types = {
    "version": (int,),
    "name": (str,),
    "tokenizer": (dict,),
    "splits": (dict,),
    "grouping": (dict, NoneType),
}
_TOKENIZER: _Types = {"kind": (str,), "fingerprint": (str,), "vocab_size": (int,), "eod": (int,)}
_SHARD: _Types = {
    "file": (str,),
    "documents": (int,),
    "tokens": (int,),
    "max_token": (int,),
    "bin_sha256": (str,),
    "idx_sha256": (str,),
    "ids_sha256": (str, NoneType),
}
_GROUPING: _Types = {
    "file": (str,),
    "domains": (int,),
    "sha256": (str,),
    "classifier": (str, NoneType),
}


def _parse(content: object, path: str) -> Manifest:
    top = _object(content, place=path)
    if top.get("version") != VERSION:  # first of all: another version may have other keys
        raise ShardError(f"{path}: version: expected {VERSION}, found {top.get('version')!r}")
    _fields(top, _TOP, place=path)
    tokenizer = TokenizerIdentity(
        **_fields(top["tokenizer"], _TOKENIZER, place=f"{path}: tokenizer")
    )
    if tokenizer.vocab_size > MOST_IDS:
        raise ShardError(
            f"{path}: tokenizer.vocab_size: expected at most {MOST_IDS}, "
            f"found {tokenizer.vocab_size}"
        )
    if not 0 <= tokenizer.eod < tokenizer.vocab_size:
        raise ShardError(
            f"{path}: tokenizer.eod: expected an id below vocab_size = {tokenizer.vocab_size}, "
            f"found {tokenizer.eod}"
        )
    splits = {
        name: _shards(shards, place=f"{path}: splits.{_shown(name)}")
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
    # What cannot be printed is no name to the system (NUL, half a surrogate pair) or breaks lines.
    if file in ("", ".", "..") or "/" in file or not file.isprintable():
        raise ShardError(f"{place}: expected a name without folders, found {file!r}")


def _fields(value: object, types: _Types, *, place: str) -> dict[str, Any]:
    """Return a JSON object after checking that it has exactly these keys, of these types."""
    fields = _object(value, place=place)
    if fields.keys() != types.keys():
        missing = ", ".join(sorted(types.keys() - fields.keys())) or "none missing"
        unknown = ", ".join(map(_shown, sorted(fields.keys() - types.keys()))) or "none unknown"
        raise ShardError(
            f"{place}: expected the keys {', '.join(types)}, "
            f"found missing: {missing}, unknown: {unknown}"
        )
    for key, kinds in types.items():
        if type(fields[key]) not in kinds:  # a bool is no count
            names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            raise ShardError(f"{place}: {key}: expected {names}, found {_describe(fields[key])}")
    return fields


def _object(value: object, *, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ShardError(f"{place}: expected an object, found {_describe(value)}")
    return cast("dict[str, Any]", value)


def _shown(key: str) -> str:
    return key if key.isidentifier() else repr(key)


def _describe(value: object) -> str:
    return f"{type(value).__name__} {json.dumps(value)[:60]}"
