"""Second half of a build: merges sorted runs into shards and folders."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.files import atomic_write
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    ShardEntry,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.errors import ShardError
from megadga.prepare.pipeline.corpus import SPLITS
from megadga.prepare.pipeline.runs import (
    SPLIT_SHIFT,
    RunReader,
    SortPosition,
    TokenizedDocuments,
    divide_groups,
    group_numbers,
    run_dtype,
    split_documents,
)
from megadga.prepare.pipeline.work_folder import WorkFolder
from megadga.prepare.reading.splits import kept_tokenizer_path, rejects_path
from megadga.prepare.tokenizers.base import Tokenizer, read_tokenizer_file

GATHERED_TOKENS = 1 << 20


TRAIN, VALID = range(len(SPLITS))


@dataclass(frozen=True, eq=False)
class SortedRun:
    """Name of a run, and the mapping of its domains to global ones.

    Attributes:
        name: Its name in the work folder.
        domains: Global index of each of its domains, ascending; None: identical.
    """

    name: str
    domains: IntArray | None


@dataclass(frozen=True, eq=False)
class DomainSizes:
    """Sizes of all domains.

    Attributes:
        documents: Documents per split and domain, shape ``(splits, K)``.
        tokens: Tokens per split and domain, shape ``(splits, K)``.
    """

    documents: IntArray
    tokens: IntArray

    def trained_on(self, domains: IntArray) -> "DomainSizes":
        """Return the sizes with all documents of some domains moved to the training split."""
        moved: list[IntArray] = []
        for sizes in (self.documents, self.tokens):
            sums = sizes.copy()
            sums[TRAIN, domains] = sizes[:, domains].sum(axis=0)
            sums[VALID, domains] = 0
            moved.append(sums)
        return DomainSizes(*moved)


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write.

    Attributes:
        folder: Name of its folder.
        split: Its split.
        number: Its index among the shards of that split, from 0.
        points: Its start, and the end of each range of sort keys in it.
        num_tokens: Approximate number of tokens.
    """

    folder: str
    split: str
    number: int
    points: tuple[SortPosition, ...]
    num_tokens: int

    @property
    def name(self) -> str:
        """Name of its files without suffix."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class ShardMerger:
    """Writes shards from sorted runs; picklable, for workers.

    Attributes:
        work_folder: Folder of runs and shards.
        runs: All runs, in the order of the corpus.
        vocab_size: Ids are below it.
        ids: Whether documents have ids.
        spans: Whether they are dialogues, with spans of trained tokens.
        whole: Domains whose held-out documents are moved to the training split, ascending.
    """

    work_folder: WorkFolder
    runs: Sequence[SortedRun]
    vocab_size: int
    ids: bool
    spans: bool = False
    whole: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __call__(self, task: ShardTask) -> ShardEntry:
        """Write one shard and record its completion."""
        prefix = self.work_folder.shard_prefix(task.folder, task.name)
        prefix.parent.mkdir(exist_ok=True)
        dtype = best_dtype(self.vocab_size)
        with ShardWriter(prefix, dtype, ids=self.ids, spans=self.spans) as writer:
            for first, last in pairwise(task.points):
                for documents in self._gathered(first, last):
                    writer.add_documents(documents.tokens, documents.lengths, documents.ids)
        self.work_folder.save_shard(task.folder, writer.entry)
        return writer.entry

    def sizes(self, num_domains: int) -> DomainSizes:
        """Return the sizes of all runs; reads their lists of groups."""
        shape = (len(SPLITS), num_domains)
        documents, tokens = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for sorted_run in self.runs:
            run = self._open(sorted_run)
            splits, domains = divide_groups(run.groups)
            documents[splits, domains] += run.num_documents  # groups are unique within a run
            tokens[splits, domains] += run.num_tokens
        return DomainSizes(documents, tokens)

    def _gathered(self, first: SortPosition, last: SortPosition) -> Iterator[TokenizedDocuments]:
        """Yield the documents of a range in sort order, in batches."""
        found = [part for run in self.runs for part in self._parts(self._open(run), first, last)]
        keys = np.concatenate([documents.keys for documents in found])
        groups = np.concatenate([documents.groups for documents in found])
        lengths = np.concatenate([documents.lengths for documents in found])
        tokens: list[TokenArray] = [
            view for some in found for view in split_documents(some.tokens, some.lengths)
        ]
        ids: list[str] = [one for documents in found for one in documents.ids]
        order: IntArray = np.lexsort((keys, groups))
        ends = np.cumsum(lengths[order])
        cuts = np.flatnonzero(np.diff(ends // GATHERED_TOKENS)) + 1
        for chosen in np.split(order, cuts):
            places: list[int] = chosen.tolist()
            if places:
                yield TokenizedDocuments(
                    tokens=np.concatenate([tokens[place] for place in places]),
                    lengths=lengths[chosen],
                    groups=groups[chosen],
                    keys=keys[chosen],
                    ids=[ids[place] for place in places] if self.ids else (),
                )

    def _parts(
        self, run: RunReader, first: SortPosition, last: SortPosition
    ) -> Iterator[TokenizedDocuments]:
        """Yield a run's documents in a range of one split, in any order."""
        documents = run.between(first, last)
        domains = self.whole[
            np.isin(group_numbers(np.full_like(self.whole, VALID), self.whole), run.groups)
        ]
        if not domains.size:
            yield documents
        elif first.split == VALID:
            yield documents.without(group_numbers(np.full_like(domains, VALID), domains))
        else:
            yield documents
            within = (domains >= first.domain) & (domains <= last.domain)
            for domain in domains[within].tolist():
                begin = SortPosition(VALID, domain, first.key if domain == first.domain else 0)
                end = replace(last, split=VALID)
                part = run.between(
                    begin, end if domain == last.domain else SortPosition(VALID, domain + 1)
                )
                yield replace(part, groups=part.groups - (VALID << SPLIT_SHIFT))

    def _open(self, run: SortedRun) -> RunReader:
        dtype = run_dtype(self.vocab_size, chat=self.spans)
        return RunReader(self.work_folder.run_prefix(run.name), dtype, domains=run.domains)


def plan_shards(
    folder: str, domains: range, tokens: IntArray, *, shard_tokens: int, range_tokens: int
) -> Iterator[ShardTask]:
    """Yield the shards of one folder, with similar sizes within each split.

    Args:
        folder: Its name.
        domains: Indices of its domains.
        tokens: Tokens per split and domain, of all domains, shape ``(splits, K)``.
        shard_tokens: Approximate tokens per shard; sizes vary because keys are random.
        range_tokens: Approximate tokens merged at once; does not affect the shards.
    """
    for number, split in enumerate(SPLITS):
        held = tokens[number, domains.start : domains.stop]
        total = int(held.sum())
        num_shards = -(-total // shard_tokens)
        if not num_shards:
            continue
        num_ranges = -(-total // (num_shards * range_tokens))
        points = [
            _point(number, domains.start, held, total * cut // (num_shards * num_ranges))
            for cut in range(num_shards * num_ranges)
        ]
        points.append(SortPosition(number, domains.stop))
        for shard in range(num_shards):
            cuts = points[shard * num_ranges : (shard + 1) * num_ranges + 1]
            yield ShardTask(folder, split, shard, tuple(cuts), total // num_shards)


def _point(split: int, first: int, tokens: IntArray, target: int) -> SortPosition:
    """Return the sort position after about ``target`` tokens of a split's domains.

    Keys are uniform: a fraction of a domain's tokens lies below that fraction of 2^64.
    """
    ends = np.cumsum(tokens)
    domain = int(np.searchsorted(ends, target, side="right"))
    held = int(tokens[domain])
    before = int(ends[domain]) - held
    key = (target - before << 64) // held
    return SortPosition(split, first + domain, key)


BUILD_FILE = "build.json"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Identity of a build's input, to recognise its finished folders.

    Attributes:
        digest: SHA-256, as hex digits, of everything that determines the output, with names and
            sizes of its files.
        modified: Modification time of each file, in nanoseconds, by its absolute path.
    """

    digest: str
    modified: Mapping[str, int]

    def describe(self) -> dict[str, Any]:
        """Return a JSON-serializable description of bounded size."""
        times = json.dumps(sorted(self.modified.items())).encode()
        return {
            "version": 2,
            "build": self.digest,
            "modified": hashlib.sha256(times).hexdigest(),
            "newest": max(self.modified.values(), default=0),
        }

    def check(self, note: Mapping[str, Any], folder: Path) -> None:
        """Check that the input files have not changed since a folder was built from them.

        Args:
            note: The description stored in the folder.
            folder: The folder.

        Raises:
            ShardError: If a file was modified; names the first one that is newer than all were, if
                there is one.
        """
        if note.get("modified") == self.describe()["modified"]:
            return
        newest = note.get("newest")
        newer = [
            path
            for path, time in self.modified.items()
            if isinstance(newest, int) and time > newest
        ]
        raise ShardError(
            f"{newer[0] if newer else folder}: expected no change since {folder} was built from "
            "it, found other modification times: remove that folder to build it again"
        )


@dataclass(frozen=True, slots=True)
class BuildOutput:
    """The output location of a build.

    Attributes:
        path: The folder for one folder per domain or, if grouped, of the shared shards.
        grouped: Whether the domains share one folder of shards.
    """

    path: Path
    grouped: bool = False

    @property
    def work_folder(self) -> WorkFolder:
        """The hidden work folder beside it."""
        path = self.path.absolute()
        return WorkFolder(path.with_name(f".{path.name}.building"))

    def rejects_path(self, digest: str) -> Path:
        """Return the path of the list of invalid records, beside the output."""
        return rejects_path(self.path.absolute(), digest)

    def folders(self, names: Sequence[str]) -> dict[str, range]:
        """Return the name of each folder with shards, and the indices of its domains."""
        if self.grouped:
            return {self.path.absolute().name: range(len(names))}
        return {name: range(number, number + 1) for number, name in enumerate(names)}

    def final_path(self, folder: str) -> Path:
        """Return the final path of a folder with shards."""
        return self.path if self.grouped else self.path / folder

    def finished(self, folder: str, made: Provenance) -> Manifest | None:
        """Return the manifest of a folder that this build has completed, None if it has not.

        Raises:
            ShardError: If the folder is from another build, or the input was modified since.
        """
        path = self.final_path(folder)
        if not path.exists():
            return None
        note = _read_note(path)
        if note.get("build") != made.digest:
            raise ShardError(f"{path}: expected no domain of this name yet, found one")
        made.check(note, path)
        return read_manifest(path)

    def check_left(self, made: Provenance) -> None:
        """Check existing output before the domains are known.

        Raises:
            ShardError: If output of this build exists and the input was modified since; if
                grouped, also if the output is from another build.
        """
        if self.grouped:
            self.finished(self.path.absolute().name, made)
            return
        for note_path in sorted(self.path.glob(f"*/{BUILD_FILE}")):
            note = _read_note(note_path.parent)
            if note.get("build") == made.digest:
                made.check(note, note_path.parent)


@dataclass(frozen=True)
class FolderFinisher:
    """Completes folders with finished shards and moves them to their final location.

    Attributes:
        output: The output location.
        tokenizer: Tokenizer that produced the tokens; a copy of its file is kept with the shards.
        names: Names of the ``K`` domains.
        sizes: Sizes of the domains.
        classifier: Fingerprint of the classifier; None if there was none.
        build: JSON-serializable description of the build to store.
    """

    output: BuildOutput
    tokenizer: Tokenizer
    names: Sequence[str]
    sizes: DomainSizes
    classifier: str | None
    build: Mapping[str, Any]

    def __call__(self, folder: str, shards: Sequence[ShardTask]) -> Manifest:
        """Write one folder's manifest and move it to its final location.

        Args:
            folder: Its name.
            shards: Its shards, all of them written.
        """
        work_folder = self.output.work_folder
        merged = work_folder.merged_folder(folder)
        merged.mkdir(exist_ok=True)
        entries: dict[str, tuple[ShardEntry, ...]] = {
            split: tuple(_entries(work_folder, [one for one in shards if one.split == split]))
            for split in SPLITS
        }
        grouping = write_grouping(merged, self._grouping()) if self.output.grouped else None
        manifest = Manifest(folder, self.tokenizer.identity, entries, grouping)
        with atomic_write(merged / BUILD_FILE) as file:
            file.write(json.dumps(self.build, indent=2).encode() + b"\n")
        write_manifest(merged, manifest)
        path = self.output.final_path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep_tokenizer(merged if self.output.grouped else path.parent)
        merged.rename(path)
        return manifest

    def _keep_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's file to a folder, if it is not there yet."""
        file, fingerprint = self.tokenizer.path, self.tokenizer.identity.fingerprint
        kept = kept_tokenizer_path(folder, fingerprint, file.suffix)
        if not kept.exists():
            content, _ = read_tokenizer_file(file, fingerprint=fingerprint)
            with atomic_write(kept) as copy:
                copy.write(content)

    def _grouping(self) -> Grouping:
        bounds = {
            split: Bounds(
                tokens=_cumulative(self.sizes.tokens[number]),
                documents=_cumulative(self.sizes.documents[number]),
            )
            for number, split in enumerate(SPLITS)
        }
        return Grouping(tuple(self.names), bounds, self.classifier)


def _read_note(folder: Path) -> dict[str, Any]:
    """Return the description that a build stored in a folder, empty if it is unreadable."""
    try:
        note: object = json.loads((folder / BUILD_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", note) if isinstance(note, dict) else {}


def _entries(work_folder: WorkFolder, shards: Sequence[ShardTask]) -> Iterator[ShardEntry]:
    for shard in shards:
        entry = work_folder.shard_entry(shard.folder, shard.name)
        assert entry is not None, f"{shard.folder}/{shard.name} is written before its folder ends"
        yield entry


def _cumulative(sizes: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes)))
