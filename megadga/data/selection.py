"""Writes shards of some of the documents of others: those that are kept by score, or tiers."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray
from megadga.data.create import SHARD_TOKENS, atomic_folder, write_shards
from megadga.data.documents import DocumentBatch
from megadga.data.files import link_file
from megadga.data.folder import DomainSource, ShardFolder, read_folder, read_folders
from megadga.data.indexed import best_dtype
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    ShardEntry,
    manifest_path,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.data.numbered import NumberedDocuments
from megadga.data.ranking import Part, divide_by_score, keep_by_score, perturb_scores
from megadga.data.scores import ScoreArray, read_scores, scorers, write_scores
from megadga.data.verify import ShardCheck, check_files
from megadga.errors import ConfigError, ShardError

SPLIT = "train"
"""The split whose documents have scores."""


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """A share of each domain's tokens, by score.

    Attributes:
        share: In (0, 1].
        part: Which documents.
        temperature: None: exactly those; else a sample of them, above 0 (``perturb_scores``).
        seed: Of the sample, in ``[0, 2**64)``.

    Raises:
        ConfigError: If a number is out of range, or a sample is one of the middle.
    """

    share: float
    part: Part = "highest"
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"keep: expected 0 < SHARE <= 1, found {self.share}")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed: expected 0 <= N < 2^64, found {self.seed}")
        if self.temperature is None:
            return
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature: expected a number above 0, found {self.temperature}")
        if self.part == "middle":
            raise ConfigError("temperature: expected the highest or lowest scores, found middle")

    def divide(self, name: str, scores: ScoreArray, lengths: IntArray) -> tuple[IntArray, ...]:
        """Return the numbers of the documents that are kept, ascending: one array."""
        part = self.part
        if self.temperature is not None:
            signed = scores if part == "highest" else -scores
            address = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
            scores = perturb_scores(
                signed, temperature=self.temperature, seed=self.seed, domain=address
            )
            part = "highest"
        return (np.flatnonzero(keep_by_score(scores, lengths, self.share, part)),)

    def names(self, domain: str) -> tuple[str, ...]:
        """Return the name of the new domain, which is that of the old one."""
        return (domain,)


@final
@dataclass(frozen=True, slots=True)
class Tiers:
    """Each domain as several, of about equally many tokens, by score.

    Attributes:
        number: At least 2.

    Raises:
        ConfigError: If it is not.
    """

    number: int

    def __post_init__(self) -> None:
        if self.number < 2:
            raise ConfigError(f"tiers: expected at least 2, found {self.number}")

    def divide(self, _name: str, scores: ScoreArray, lengths: IntArray) -> tuple[IntArray, ...]:
        """Return the numbers of the documents of each tier, ascending; highest scores first."""
        tiers = divide_by_score(scores, lengths, self.number)
        return tuple(np.flatnonzero(tiers == tier) for tier in range(self.number))

    def names(self, domain: str) -> tuple[str, ...]:
        """Return the names of the tiers, ``DOMAIN-tier1`` of the highest scores, and so on."""
        return tuple(f"{domain}-tier{number}" for number in range(1, self.number + 1))


Choice = Kept | Tiers


def read_scored(where: Path) -> tuple[ShardFolder, ...]:
    """Read a folder of domains, of many domains in shared shards, or of one domain.

    Raises:
        ShardError: If there is none, or a manifest is damaged.
    """
    if manifest_path(where).exists() and read_manifest(where).grouping is None:
        return (read_folder(DomainSource(where.resolve().name, where)),)
    return read_folders(where)


def select_documents(
    where: Path,
    output: Path,
    scores: str,
    choice: Choice,
    *,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the training documents that a choice keeps of each domain, in their order; atomically.

    Documents keep their ids, trained spans and scores. Other splits are kept whole: their files
    are linked, so that losses on them can be compared; of tiers, the first one has them.

    Args:
        where: See ``read_scored``.
        output: The new folder, which must not exist: of domains, of many domains in shared
            shards, or of one domain, as ``where`` is; of the tiers of one domain, a folder of
            domains.
        scores: Name of the scores.
        choice: What is kept.
        shard_tokens: A shard is closed once it holds this many tokens, at least 1.
        progress: Called with the tokens written since the last call.

    Raises:
        ShardError: If the output exists, documents have no such scores, a domain would be left
            without documents, a shard is missing or damaged, or writing fails.
    """
    folders = read_scored(where)
    single = manifest_path(where).exists()
    for folder in folders:
        _check_shards(folder)
    with atomic_folder(output) as partial:
        for folder in folders:
            writer = _Writer(folder, scores, choice, shard_tokens, progress)
            if folder.manifest.grouping is not None:
                writer.write_grouped(partial, output.name)
                continue
            names = choice.names(folder.source.name)
            whole = single and len(names) == 1
            places = [partial if whole else partial / name for name in names]
            writer.write_domains(places, [output.name] if whole else names)


def _check_shards(folder: ShardFolder) -> None:
    for entries in folder.manifest.splits.values():
        for entry in entries:
            check_files(ShardCheck(folder.source.path, entry, folder.manifest.tokenizer))


@final
class _Writer:
    """Writes what a choice keeps of one folder.

    Args:
        folder: The folder.
        scores: Name of the scores.
        choice: What is kept.
        shard_tokens: See ``select_documents``.
        progress: See there.
    """

    def __init__(
        self,
        folder: ShardFolder,
        scores: str,
        choice: Choice,
        shard_tokens: int,
        progress: Callable[[int], object],
    ) -> None:
        self._folder = folder
        self._choice = choice
        self._shard_tokens = shard_tokens
        self._progress = progress
        self._documents = NumberedDocuments(folder, SPLIT)
        self._entries = [e for e in folder.manifest.splits.get(SPLIT, ()) if e.documents]
        self._scores = read_scores(folder.source.path, self._entries, scores)

    def write_domains(self, places: Sequence[Path], names: Sequence[str]) -> None:
        """Write each part of a single domain into a folder of its own."""
        source = self._folder.source.name
        chosen = self._choice.divide(source, self._scores, self._documents.lengths)
        for number, (place, name, documents) in enumerate(zip(places, names, chosen, strict=True)):
            if not documents.size:
                raise ShardError(
                    f"{self._folder.source.path}: expected documents for {name}, "
                    f"found {self._documents.lengths.size} in all, too few or too long"
                )
            place.mkdir(exist_ok=True)
            splits = {SPLIT: self._write(place, documents)}
            if number == 0:
                splits |= self._link_others(place)
            write_manifest(place, Manifest(name, self._folder.manifest.tokenizer, splits))

    def write_grouped(self, place: Path, name: str) -> None:
        """Write the parts of domains that share shards, one domain after the other."""
        grouping, lengths = self._folder.domains, self._documents.lengths
        bounds = grouping.bounds[SPLIT].documents.tolist()
        parts: list[IntArray] = []
        for domain, first, last in zip(grouping.names, bounds, bounds[1:], strict=False):
            chosen = self._choice.divide(domain, self._scores[first:last], lengths[first:last])
            parts += [documents + first for documents in chosen]
        none = np.zeros(0, dtype=np.int64)
        entries = self._write(place, np.concatenate([none, *parts]), parts)
        documents = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        tokens = np.cumsum([0, *(int(lengths[part].sum()) for part in parts)], dtype=np.int64)
        splits = {SPLIT: entries} | self._link_others(place)
        kept = {SPLIT: Bounds(tokens, documents)}
        for split in splits.keys() - {SPLIT}:
            kept[split] = _first_of_each(grouping.bounds[split], len(self._choice.names("")))
        names = tuple(each for domain in grouping.names for each in self._choice.names(domain))
        classifier = grouping.classifier if names == grouping.names else None
        entry = write_grouping(place, Grouping(names, kept, classifier))
        manifest = Manifest(name, self._folder.manifest.tokenizer, splits, entry)
        write_manifest(place, manifest)

    def _write(
        self, place: Path, documents: IntArray, parts: Sequence[IntArray] = ()
    ) -> tuple[ShardEntry, ...]:
        """Write documents, part after part, with the scores that they have."""
        entries = self._entries
        ids = bool(entries) and all(entry.ids_sha256 is not None for entry in entries)
        written = tuple(
            write_shards(
                place / SPLIT,
                self._read(parts or (documents,), ids=ids),
                dtype=best_dtype(self._folder.manifest.tokenizer.vocab_size),
                shard_tokens=self._shard_tokens,
                ids=ids,
                spans=self._folder.manifest.num_trained(SPLIT) is not None,
            )
        )
        for name, scorer in scorers(entries).items():
            column = read_scores(self._folder.source.path, entries, name)
            written = write_scores(place, written, name, scorer, column[documents])
        return written

    def _read(self, parts: Sequence[IntArray], *, ids: bool) -> Iterator[DocumentBatch]:
        for part in parts:
            for batch in self._documents.read(part, ids=ids):
                yield batch
                self._progress(batch.tokens.size)

    def _link_others(self, place: Path) -> dict[str, tuple[ShardEntry, ...]]:
        """Link the shards of all other splits; return their entries."""
        manifest = self._folder.manifest
        others = {split: e for split, e in manifest.splits.items() if split != SPLIT}
        for entry in (entry for entries in others.values() for entry in entries):
            check = ShardCheck(self._folder.source.path, entry, manifest.tokenizer)
            for key, target in replace(check, folder=place).files.items():
                link_file(check.files[key], target)
        return others


def _first_of_each(bounds: Bounds, number: int) -> Bounds:
    """Return bounds of ``number`` domains for each, of which the first has all that it has."""
    places = np.concatenate(([0], np.repeat(np.arange(1, bounds.tokens.size), number)))
    return Bounds(bounds.tokens[places], bounds.documents[places])
