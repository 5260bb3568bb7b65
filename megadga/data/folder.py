"""Opens folders of shards as domains, and validates their files."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from megadga.data.domain import Domain, TrainedWindows
from megadga.data.indexed import IndexedShard, index_path
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    ShardEntry,
    manifest_path,
    read_grouping,
    read_manifest,
)
from megadga.data.stream import TokenStream
from megadga.data.targets import TrainedSpans, spans_path
from megadga.errors import ShardError


@dataclass(frozen=True, slots=True)
class DomainSource:
    """Name and location of a domain.

    Attributes:
        name: Its name in metrics and weights.
        path: The folder with its manifest.
    """

    name: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class ShardFolder:
    """A folder of shards whose manifest has been read.

    Attributes:
        source: Its name and location.
        manifest: Its manifest.
        domains: The domains in its shards; a single one unless the folder is grouped.
    """

    source: DomainSource
    manifest: Manifest
    domains: Grouping


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSplit:
    """One split of all domains.

    Attributes:
        domains: Domains with at least one sequence, in order.
        too_short: Number of tokens of each domain without a window, by name.
        untrained: Names of domains of dialogues with windows, but without a target in any.
    """

    domains: tuple[Domain, ...]
    too_short: Mapping[str, int]
    untrained: tuple[str, ...] = ()


def find_domains(folder: Path) -> tuple[DomainSource, ...]:
    """Return the domains of ``folder``: each folder in it, hidden ones excluded, sorted by name.

    Raises:
        ShardError: If there are none, or the folder is a domain's own.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: expected a folder with one folder per domain, found none")
    if manifest_path(folder).exists():
        raise ShardError(
            f"{folder}: expected a folder with one folder per domain, found a domain's own folder"
        )
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ShardError(f"{folder}: expected one folder per domain, found no folder in it")
    return tuple(DomainSource(name, folder / name) for name in names)


def read_folders(where: Path | Sequence[DomainSource]) -> tuple[ShardFolder, ...]:
    """Read the manifest of every folder with domains, each exactly once.

    Args:
        where: A folder with one folder per domain, a folder of many domains in shared shards, or
            the domains' folders, in the required order.

    Raises:
        ShardError: If a manifest is missing or damaged, two domains have the same name, or the
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
            f"{source.path}: expected a folder with one folder per domain, "
            "found a domain's own folder"
        )
    return ShardFolder(source, manifest, read_grouping(source.path, manifest))


def read_folder(source: DomainSource) -> ShardFolder:
    """Read the manifest of the folder of one domain.

    Raises:
        ShardError: If it is missing or damaged, or the folder is grouped.
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


def open_split(
    folders: Sequence[ShardFolder],
    *,
    split: str,
    sequence_length: int,
    chat: Collection[str] = (),
) -> OpenedSplit:
    """Open one split of all domains. Reads one header per shard, and trained spans.

    Args:
        folders: Result of :func:`read_folders`.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens per sequence, at least 1.
        chat: Names of domains of dialogues of which only the trained spans are targets. Their
            ``.spans`` are kept in memory, 32 bytes a span.

    Raises:
        ShardError: If a folder has no such split, a file is missing or damaged, a manifest
            contradicts a shard, an id is too large for the vocabulary, or there are no trained
            spans of dialogues.
    """
    domains: list[Domain] = []
    too_short: dict[str, int] = {}
    untrained: list[str] = []
    for folder in folders:
        shards = open_shards(folder.source, folder.manifest, split)
        place, tokenizer, names = (
            folder.source.path,
            folder.manifest.tokenizer,
            folder.domains.names,
        )
        stream = dialogues = TokenStream(place, shards, tokenizer)
        if chat and not set(names).isdisjoint(chat):
            spans = open_spans(shards, folder.manifest.splits[split])
            dialogues = TokenStream(place, shards, tokenizer, spans=spans)
        bounds = folder.domains.bounds[split]
        tokens, documents = bounds.tokens.tolist(), np.diff(bounds.documents).tolist()
        # A plain loop: 262,144 domains take a third of a second.
        for name, (begin, end), count in zip(names, pairwise(tokens), documents, strict=True):
            if end - begin <= sequence_length:
                too_short[name] = end - begin
            elif name not in chat:
                domains.append(Domain(name, stream, begin, end, count, sequence_length))
            else:
                assert dialogues.spans is not None
                trained = TrainedWindows.find(dialogues.spans, begin, end, sequence_length)
                if len(trained):
                    domain = Domain(name, dialogues, begin, end, count, sequence_length, trained)
                    domains.append(domain)
                else:
                    untrained.append(name)
    return OpenedSplit(tuple(domains), too_short, tuple(untrained))


def open_all_domains(
    folders: Sequence[ShardFolder],
    *,
    split: str,
    sequence_length: int,
    chat: Collection[str] = (),
) -> tuple[Domain, ...]:
    """Open one split of all domains; raise if one has no sequence.

    Args:
        folders: Result of :func:`read_folders`.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens per sequence, at least 1.
        chat: Names of domains of dialogues, as of :func:`open_split`.

    Raises:
        ShardError: As :func:`open_split`; or if a domain has fewer than ``S + 1`` tokens, or one
            of dialogues no target.
        ValueError: If a name in ``chat`` is no domain's.
    """
    if unknown := sorted({*chat}.difference(*(folder.domains.names for folder in folders))):
        raise ValueError(f"chat: expected names of domains, found {unknown[0]!r}")
    opened = open_split(folders, split=split, sequence_length=sequence_length, chat=chat)
    check_trained(opened, folders, split=split)
    if opened.too_short:
        name, num_tokens = next(iter(opened.too_short.items()))
        path = next(f.source.path for f in folders if name in f.domains.names)
        raise ShardError(
            f"{path}: split {split}: expected at least {sequence_length + 1} tokens "
            f"(one window of sequence_length + 1), found {num_tokens} in {name}"
        )
    return opened.domains


def check_trained(opened: OpenedSplit, folders: Sequence[ShardFolder], *, split: str) -> None:
    """Check that every domain of dialogues has a target.

    Raises:
        ShardError: If not; names the first without.
    """
    for name in opened.untrained:
        path = next(f.source.path for f in folders if name in f.domains.names)
        raise ShardError(f"{path}: split {split}: expected trained tokens in {name}, found none")


def open_domains(
    where: Path | Sequence[DomainSource],
    *,
    split: str,
    sequence_length: int,
    chat: Collection[str] = (),
) -> tuple[Domain, ...]:
    """Open one split of several domains that share a tokenizer.

    Args:
        where: A folder with one folder per domain, a folder of many domains in shared shards, or
            the domains, in the required order.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens per sequence, at least 1.
        chat: Names of domains of dialogues of which only the trained spans are targets, as
            ``megadga data build --chat`` writes them; others train on all tokens.

    Raises:
        ShardError: If a domain cannot be opened, two have the same name, their tokenizers differ,
            one has fewer than ``S + 1`` tokens, or one of dialogues no trained spans.
        ValueError: If a name in ``chat`` is no domain's.
    """
    folders = read_folders(where)
    return open_all_domains(folders, split=split, sequence_length=sequence_length, chat=chat)


def open_domain(source: DomainSource, *, split: str, sequence_length: int) -> Domain:
    """Open one split of one domain. Reads the manifest and one header per shard.

    Args:
        source: The domain's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, tokens per sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, or there are fewer than ``S + 1`` tokens.
    """
    (domain,) = open_domains([source], split=split, sequence_length=sequence_length)
    return domain


def check_same_tokenizer(folders: Sequence[ShardFolder]) -> None:
    """Check that all folders were written with the same tokenizer.

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


def open_spans(
    shards: Sequence[IndexedShard], entries: Sequence[ShardEntry]
) -> tuple[TrainedSpans, ...]:
    """Read the trained spans of shards and check their number against the manifest.

    Raises:
        ShardError: If a shard has none, or they are damaged.
    """
    spans: list[TrainedSpans] = []
    for shard, entry in zip(shards, entries, strict=True):
        path = spans_path(shard.prefix)
        if entry.spans_sha256 is None:
            raise ShardError(
                f"{path}: expected the trained spans of dialogues (megadga data build --chat), "
                "found none in the manifest: use another packing, or build it again"
            )
        trained = TrainedSpans.read(path, shard.num_tokens)
        if (found := trained.num_tokens) != entry.trained_tokens:
            raise ShardError(
                f"{path}: expected {entry.trained_tokens} trained tokens by the manifest, "
                f"found {found}"
            )
        spans.append(trained)
    return tuple(spans)
