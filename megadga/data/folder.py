"""Opens folders of shards as domains or padded examples, with every check on the files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.domain import PADDING, Domain
from megadga.data.indexed import IndexedShard, index_path, tokens_path
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    manifest_path,
    read_grouping,
    read_manifest,
)
from megadga.data.stream import TokenStream
from megadga.errors import ShardError


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


def open_all_domains(
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
    return open_all_domains(read_folders(where), split=split, sequence_length=sequence_length)


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


@final
class Examples:
    """Sequences of one document each, padded at their end; a ``SequenceSet``.

    A document of at most ``S + 1`` tokens is one sequence. A longer one goes on in further ones of
    ``S`` targets, the last of them padded: neighbours share one token, the last target of one and
    the first input of the next, so that every token of a document but its first is a target once.
    Where each sequence lies is kept in memory, 24 bytes for each: this is for the few examples of
    a task.

    Args:
        name: What metrics call the set.
        folder: Where its shards lie.
        shards: In order; they must hold at least one document together.
        tokenizer: What wrote the tokens.
        sequence_length: S, at least 1.

    Attributes:
        num_documents: Documents in the set.
        num_tokens: Tokens in the set.
        num_long: Documents of more than one sequence.

    Raises:
        ShardError: If a document has fewer than two tokens, and so no target, or an index is
            damaged.
        ValueError: If ``sequence_length`` is below 1 or there is no document.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        shards: Sequence[IndexedShard],
        tokenizer: TokenizerIdentity,
        *,
        sequence_length: int,
    ) -> None:
        self.name = name
        self.folder = folder
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.num_documents = sum(shard.num_documents for shard in shards)
        self.num_tokens = sum(shard.num_tokens for shard in shards)
        if sequence_length < 1 or self.num_documents < 1:
            raise ValueError(
                f"{name}: expected a sequence_length and documents of at least 1, "
                f"found {sequence_length} and {self.num_documents}"
            )
        self._shards = tuple(shards)
        bounds = [shard.document_starts for shard in shards]
        for shard, starts in zip(shards, bounds, strict=True):
            _check_targets(shard, starts)
        # Of each document: its shard, its first token there, its targets and its sequences.
        shard_of = np.repeat(np.arange(len(bounds)), [starts.size - 1 for starts in bounds])
        firsts = np.concatenate([starts[:-1] for starts in bounds])
        targets = np.concatenate([np.diff(starts) - 1 for starts in bounds])
        counts: IntArray = -(-targets // sequence_length)
        self.num_long = int((counts > 1).sum())

        # Of each sequence: its document, how many of that one's targets come before it, and again
        # shard, first token and targets.
        document: IntArray = np.repeat(np.arange(counts.size), counts)
        place: IntArray = np.arange(document.size) - (np.cumsum(counts) - counts)[document]
        before = place * sequence_length
        self._shard_of = shard_of[document]
        self._starts = firsts[document] + before
        self._targets: IntArray = np.minimum(targets[document] - before, sequence_length)

    @property
    def num_sequences(self) -> int:
        """Sequences: ``ceil((n - 1) / S)`` for a document of ``n`` tokens."""
        return self._starts.size

    @property
    def padding_share(self) -> float:
        """Share of the sequences' targets that is padding, in ``[0, 1)``."""
        return 1.0 - int(self._targets.sum()) / (self.num_sequences * self.sequence_length)

    def windows(self, indices: IntArray) -> IntArray:
        """Return the tokens of some sequences; see ``SequenceSet``."""
        self._check_range(indices)
        windows = np.full((indices.size, self.sequence_length + 1), PADDING, dtype=np.int64)
        sources = np.stack([self._shard_of[indices], self._targets[indices]], axis=1)
        kinds, kind_of = np.unique(sources, axis=0, return_inverse=True)
        for kind in range(len(kinds)):  # of one shard and one length, to be read in one go
            rows = np.flatnonzero(kind_of.ravel() == kind)
            starts = self._starts[indices[rows]]
            shard, width = self._shards[int(kinds[kind, 0])], int(kinds[kind, 1]) + 1
            tokens = shard.read(starts, width).astype(np.int64)
            self._check_ids(shard, starts, tokens)
            windows[rows, :width] = tokens
        for index in np.unique(kinds[:, 0]).tolist():
            self._shards[index].check_unchanged()
        return windows

    def num_targets(self, indices: IntArray) -> IntArray:
        """Return how many targets of some sequences are tokens; see ``SequenceSet``."""
        self._check_range(indices)
        return self._targets[indices]

    def _check_range(self, indices: IntArray) -> None:
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_sequences:
            raise IndexError(
                f"{self.name}: expected sequences in [0, {self.num_sequences}), "
                f"found {indices.min()} to {indices.max()}"
            )

    def _check_ids(self, shard: IndexedShard, starts: IntArray, tokens: IntArray) -> None:
        wrong = np.argwhere((tokens < 0) | (tokens >= self.tokenizer.vocab_size))
        if wrong.size:
            row, column = wrong[0]
            raise ShardError(
                f"{tokens_path(shard.prefix)}: token {starts[row] + column}: expected an id in "
                f"[0, {self.tokenizer.vocab_size}), found {tokens[row, column]}"
            )


def open_examples(source: DomainSource, *, split: str, sequence_length: int) -> Examples:
    """Open one split of one set, each document in sequences of its own. Reads whole indices.

    Args:
        source: The set's name and folder.
        split: ``"train"`` or ``"valid"``.
        sequence_length: S, the most targets of a sequence, at least 1.

    Raises:
        ShardError: If a file is missing or damaged, the manifest contradicts a shard, an id is too
            large for the vocabulary, a document has fewer than two tokens or there is none.
    """
    manifest = read_manifest(source.path)
    shards = open_shards(source, manifest, split)
    if manifest.num_documents(split) < 1:
        raise ShardError(f"{source.path}: split {split}: expected a document, found none")
    return Examples(
        source.name,
        source.path,
        shards,
        manifest.tokenizer,
        sequence_length=sequence_length,
    )


def _check_targets(shard: IndexedShard, starts: IntArray) -> None:
    lengths = np.diff(starts)
    short = np.flatnonzero(lengths < 2)
    if short.size:
        raise ShardError(
            f"{index_path(shard.prefix)}: document {short[0]}: expected at least 2 tokens, "
            f"an input and a target, found {lengths[short[0]]}"
        )
