"""From folders to domains, with every check that files can fail. Knows no config, no sampling.

On disk: ``FOLDER/<domain>/manifest.json``, ``train-00000.bin``, ``train-00000.idx``, ...,
``valid-00000.bin``, ``valid-00000.idx``; or, where many domains share shards, all of that and
``domains.npz`` in ``FOLDER`` itself.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from megadga.errors import ShardError
from megadga.shards.domain import Domain
from megadga.shards.grouping import Bounds, Grouping, read_grouping
from megadga.shards.indexed import IndexedShard, index_path
from megadga.shards.manifest import Manifest, ShardEntry, manifest_path, read_manifest
from megadga.shards.stream import TokenStream


@dataclass(frozen=True, slots=True)
class DomainSource:
    """Where a domain lies, and what it is called.

    Attributes:
        name: What metrics and weights call it.
        path: The folder that holds its manifest.
    """

    name: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class ShardFolder:
    """A folder of shards whose manifest has been read.

    Attributes:
        source: Where it lies.
        manifest: What it holds.
        domains: How its shards are divided; into one domain, unless many share them.
    """

    source: DomainSource
    manifest: Manifest
    domains: Grouping


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSplit:
    """One split of all domains.

    Attributes:
        domains: Those with a window, in order.
        too_short: Tokens of each of the others, by name.
    """

    domains: tuple[Domain, ...]
    too_short: Mapping[str, int]


def find_domains(folder: Path) -> tuple[DomainSource, ...]:
    """Return the domains of ``folder``: each folder in it, hidden ones aside, sorted by name.

    Raises:
        ShardError: If there is none, or one has no manifest.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: expected a folder with one folder a domain, found none")
    if manifest_path(folder).exists():
        raise ShardError(
            f"{folder}: expected a folder with one folder a domain, found a domain's own folder"
        )
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ShardError(f"{folder}: expected one folder a domain, found no folder in it")
    return tuple(DomainSource(name, folder / name) for name in names)


def read_folders(where: Path | Sequence[DomainSource]) -> tuple[ShardFolder, ...]:
    """Read the manifest of every folder that holds domains; each is read here and never again.

    Args:
        where: A folder with one folder a domain, a folder of many domains in shared shards, or
            the folders of domains one by one, in the order wanted.

    Raises:
        ShardError: If a manifest is missing or damaged, two domains have one name, or the
            tokenizers differ.
    """
    if isinstance(where, Path) and manifest_path(where).exists():
        return (_read_grouped(DomainSource(where.name, where)),)
    sources = find_domains(where) if isinstance(where, Path) else tuple(where)
    _check_names(sources)
    folders = tuple(read_folder(source) for source in sources)
    check_same_tokenizer(folders)
    return folders


def _read_grouped(source: DomainSource) -> ShardFolder:
    manifest = read_manifest(source.path)
    if manifest.grouping is None:
        raise ShardError(
            f"{source.path}: expected a folder with one folder a domain, "
            "found a domain's own folder"
        )
    return ShardFolder(source, manifest, read_grouping(source.path, manifest))


def read_folder(source: DomainSource) -> ShardFolder:
    """Read the manifest of the folder of one domain.

    Raises:
        ShardError: If it is missing or damaged, or the folder holds many domains.
    """
    manifest = read_manifest(source.path)
    if manifest.grouping is not None:
        raise ShardError(
            f"{manifest_path(source.path)}: grouping: expected the folder of one domain, "
            f"found {manifest.grouping.domains}"
        )
    bounds = {
        split: Bounds(
            np.array([0, manifest.num_tokens(split)]), np.array([0, manifest.num_documents(split)])
        )
        for split in manifest.splits
    }
    return ShardFolder(source, manifest, Grouping((source.name,), bounds))


def open_split(folders: Sequence[ShardFolder], *, split: str, sequence_length: int) -> OpenedSplit:
    """Open one split of all domains. Reads one header a shard.

    Args:
        folders: What :func:`read_folders` gave.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: If a folder has no such split, a file is missing or damaged, a manifest
            contradicts a shard, or an id is too large for the vocabulary.
    """
    domains: list[Domain] = []
    too_short: dict[str, int] = {}
    for folder in folders:
        shards = open_shards(folder.source, folder.manifest, split)
        stream = TokenStream(folder.source.path, shards, folder.manifest.tokenizer)
        bounds = folder.domains.bounds[split]
        tokens, documents = bounds.tokens.tolist(), np.diff(bounds.documents).tolist()
        # In so plain a loop 262,144 domains take a third of a second.
        for name, (begin, end), count in zip(
            folder.domains.names, pairwise(tokens), documents, strict=True
        ):
            if end - begin > sequence_length:
                domains.append(Domain(name, stream, begin, end, count, sequence_length))
            else:
                too_short[name] = end - begin
    return OpenedSplit(tuple(domains), too_short)


def open_whole(
    folders: Sequence[ShardFolder], *, split: str, sequence_length: int
) -> tuple[Domain, ...]:
    """Open one split of all domains, of which none may be too short.

    Args:
        folders: What :func:`read_folders` gave.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: As :func:`open_split`; or if not even one window of ``S + 1`` tokens fits into
            a domain.
    """
    opened = open_split(folders, split=split, sequence_length=sequence_length)
    if opened.too_short:
        name, num_tokens = next(iter(opened.too_short.items()))
        path = next(f.source.path for f in folders if name in f.domains.names)
        raise ShardError(
            f"{path}: split {split}: expected at least {sequence_length + 1} tokens "
            f"(one window of sequence_length + 1), found {num_tokens} in {name}"
        )
    return opened.domains


def open_domains(
    where: Path | Sequence[DomainSource], *, split: str, sequence_length: int
) -> tuple[Domain, ...]:
    """Open one split of several domains, all of one tokenizer.

    Args:
        where: A folder with one folder a domain, a folder of many domains in shared shards, or
            the domains one by one, in the order wanted.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: If a domain cannot be opened, two have one name, their tokenizers differ, or
            not even one window of ``S + 1`` tokens fits into one of them.
    """
    return open_whole(read_folders(where), split=split, sequence_length=sequence_length)


def open_domain(source: DomainSource, *, split: str, sequence_length: int) -> Domain:
    """Open one split of one domain. Reads the manifest and one header a shard.

    Args:
        source: The domain's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens of a sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, or not even one window of ``S + 1`` tokens fits.
    """
    (domain,) = open_domains([source], split=split, sequence_length=sequence_length)
    return domain


def check_same_tokenizer(folders: Sequence[ShardFolder]) -> None:
    """Check that all folders were written with one tokenizer.

    Raises:
        ShardError: If two differ; names both folders.
    """
    for folder in folders[1:]:
        first = folders[0]
        if folder.manifest.tokenizer != first.manifest.tokenizer:
            raise ShardError(
                f"{manifest_path(folder.source.path)}: tokenizer: expected that of "
                f"{first.source.path}, {first.manifest.tokenizer}, "
                f"found {folder.manifest.tokenizer}"
            )


def open_shards(source: DomainSource, manifest: Manifest, split: str) -> tuple[IndexedShard, ...]:
    """Open the shards of one split and check them against their manifest.

    Raises:
        ShardError: If there is no such split, a file is missing or damaged, the manifest
            contradicts a shard, or an id is too large for the vocabulary.
    """
    if split not in manifest.splits:
        found = ", ".join(manifest.splits) or "none"
        raise ShardError(
            f"{manifest_path(source.path)}: splits: expected {split}, found only {found}"
        )
    return tuple(_open_shard(source.path, entry, manifest) for entry in manifest.splits[split])


def _open_shard(folder: Path, entry: ShardEntry, manifest: Manifest) -> IndexedShard:
    shard = IndexedShard.open(folder / entry.file, sha256=entry.bin_sha256)
    if (shard.num_documents, shard.num_tokens) != (entry.documents, entry.tokens):
        raise ShardError(
            f"{index_path(shard.prefix)}: expected {entry.documents} documents and "
            f"{entry.tokens} tokens by the manifest, "
            f"found {shard.num_documents} and {shard.num_tokens}"
        )
    if entry.max_token >= manifest.tokenizer.vocab_size:
        raise ShardError(
            f"{manifest_path(folder)}: {entry.file}: expected ids below vocab_size = "
            f"{manifest.tokenizer.vocab_size}, found max_token = {entry.max_token}"
        )
    return shard


def _check_names(sources: Sequence[DomainSource]) -> None:
    counts = Counter(source.name for source in sources)
    for source in sources:
        if counts[source.name] > 1:
            raise ShardError(
                f"{source.path}: expected domains with different names, "
                f"found {counts[source.name]} called {source.name}"
            )
