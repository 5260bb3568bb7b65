"""Second half of a build: sorted runs to shards and their folders."""

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
from megadga.data.indexed import ShardWriter, TokenType
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.errors import ShardError
from megadga.prepare.pipeline.corpus import SPLITS
from megadga.prepare.pipeline.tokenizing import (
    SPLIT_SHIFT,
    RunReader,
    SortPosition,
    TokenizedDocuments,
    divide_groups,
    group_numbers,
    split_documents,
)
from megadga.prepare.pipeline.work_folder import WorkFolder
from megadga.prepare.reading.splits import rejects_path

GATHERED_TOKENS = 1 << 20


TRAIN, VALID = range(len(SPLITS))


@dataclass(frozen=True, eq=False)
class SortedRun:
    """Where a run is, and what its domains are called elsewhere.

    Attributes:
        name: Its name in the work_folder.
        domains: The number of each of its domains over all runs, rising; None: the same.
    """

    name: str
    domains: IntArray | None


@dataclass(frozen=True, eq=False)
class DomainSizes:
    """How much there is.

    Attributes:
        documents: Of each domain in each split, shape ``(splits, K)``.
        tokens: The same in tokens.
    """

    documents: IntArray
    tokens: IntArray

    def trained_on(self, domains: IntArray) -> "DomainSizes":
        """Return what it is when all of some domains is in the training split."""
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
        folder: The name of the folder that it will be in.
        split: Which split of its domains it has.
        number: Its place among the shards of that split, from 0.
        points: Where it begins, and where each of the ranges that it is made of ends.
        num_tokens: Tokens in it, about.
    """

    folder: str
    split: str
    number: int
    points: tuple[SortPosition, ...]
    num_tokens: int

    @property
    def name(self) -> str:
        """The name of its files without their suffixes."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class ShardMerger:
    """What a worker does with a shard; the same for all shards of a build.

    Attributes:
        work_folder: Where runs are and shards go.
        runs: All of them, in the order of the corpus.
        dtype: Type of the tokens.
        ids: Whether documents have ids.
        whole: Domains all of whose held out documents go into the training split, rising.
    """

    work_folder: WorkFolder
    runs: Sequence[SortedRun]
    dtype: TokenType
    ids: bool
    whole: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __call__(self, task: ShardTask) -> ShardEntry:
        """Write one shard; it is whole, and recorded, when this returns."""
        prefix = self.work_folder.shard_prefix(task.folder, task.name)
        prefix.parent.mkdir(exist_ok=True)
        with ShardWriter(prefix, self.dtype, ids=self.ids) as writer:
            for first, last in pairwise(task.points):
                for documents in self._gathered(first, last):
                    writer.add_documents(documents.tokens, documents.lengths, documents.ids)
        self.work_folder.save_shard(task.folder, writer.entry)
        return writer.entry

    def sizes(self, num_domains: int) -> DomainSizes:
        """Return what all runs hold; reads their lists of groups."""
        shape = (len(SPLITS), num_domains)
        documents, tokens = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for sorted_run in self.runs:
            run = self._open(sorted_run)
            splits, domains = divide_groups(run.groups)
            documents[splits, domains] += run.num_documents  # each group comes once in a run
            tokens[splits, domains] += run.num_tokens
        return DomainSizes(documents, tokens)

    def _gathered(self, first: SortPosition, last: SortPosition) -> Iterator[TokenizedDocuments]:
        """Yield the documents of a range of the order, some at a time."""
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
        """Yield what a run has in a range, which is of one split, in any order."""
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
        return RunReader(self.work_folder.run_prefix(run.name), self.dtype, domains=run.domains)


def plan_shards(
    folder: str, domains: range, tokens: IntArray, *, shard_tokens: int, range_tokens: int
) -> Iterator[ShardTask]:
    """Yield the shards of one folder: each split in shards of similar size, at least one token.

    Args:
        folder: Its name.
        domains: Numbers of the domains in it.
        tokens: Of each domain in each split, over all of them, shape ``(splits, K)``.
        shard_tokens: Tokens of a shard, about; sizes vary because keys are random.
        range_tokens: Tokens that are gathered at a time, about; makes no difference to the shards.
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
    """Return the point before which about ``target`` tokens of a split's domains come.

    Keys are spread evenly: a fraction of a domain's tokens lies below that fraction of 2^64.
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
    """What a build is of, by which its finished folders are known again.

    Attributes:
        digest: SHA-256 of everything that decides it, with names and sizes of its files,
            hexadecimal.
        modified: When each file was modified, in nanoseconds, by its absolute path.
    """

    digest: str
    modified: Mapping[str, int]

    def describe(self) -> dict[str, Any]:
        """Return it JSON-shaped, of bounded size however many files there are."""
        times = json.dumps(sorted(self.modified.items())).encode()
        return {
            "version": 2,
            "build": self.digest,
            "modified": hashlib.sha256(times).hexdigest(),
            "newest": max(self.modified.values(), default=0),
        }

    def check(self, note: Mapping[str, Any], folder: Path) -> None:
        """Check that the files are still what a folder was built from.

        Args:
            note: What ``describe`` said then.
            folder: What was built.

        Raises:
            ShardError: If one of them was modified since; names the first that is newer than all
                were, if there is one.
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
            f"{newer[0] if newer else folder}: expected the input as it was when {folder} was "
            "built from it, found other times of modification: remove that folder to build it "
            "again"
        )


@dataclass(frozen=True, slots=True)
class BuildOutput:
    """Where a build puts its domains.

    Attributes:
        path: The folder that gets one folder per domain; or, grouped, that all domains share.
        grouped: Whether they share it.
    """

    path: Path
    grouped: bool = False

    @property
    def work_folder(self) -> WorkFolder:
        """The hidden folder beside it that a build works in."""
        path = self.path.absolute()
        return WorkFolder(path.with_name(f".{path.name}.building"))

    def rejects_path(self, digest: str) -> Path:
        """Return where the bad records of a build are listed, beside the output."""
        return rejects_path(self.path.absolute(), digest)

    def folders(self, names: Sequence[str]) -> dict[str, range]:
        """Return the name of each folder with shards, and the numbers of the domains in it."""
        if self.grouped:
            return {self.path.absolute().name: range(len(names))}
        return {name: range(number, number + 1) for number, name in enumerate(names)}

    def final_path(self, folder: str) -> Path:
        """Return where a folder with shards ends up."""
        return self.path if self.grouped else self.path / folder

    def finished(self, folder: str, made: Provenance) -> Manifest | None:
        """Return what a build has put in its place already; None: nothing yet.

        Raises:
            ShardError: If something else is there, or the same from files that were modified
                since.
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
        """Check what was built here before, where the records are still to say what domains are.

        Raises:
            ShardError: If something of the same build is there, from files that were modified
                since; grouped, if something else is there.
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
    """Puts folders with finished shards in their place; the same for all of a build.

    Attributes:
        output: Where.
        tokenizer: Tokenizer that produced the tokens.
        names: The domains' names, ``K`` of them.
        sizes: How much there is of each.
        classifier: Fingerprint of what sorted documents into them; None: nothing did.
        build: What is written down of the build, JSON-shaped.
    """

    output: BuildOutput
    tokenizer: TokenizerIdentity
    names: Sequence[str]
    sizes: DomainSizes
    classifier: str | None
    build: Mapping[str, Any]

    def __call__(self, folder: str, shards: Sequence[ShardTask]) -> Manifest:
        """Complete one folder with its manifest and give it its final name.

        Args:
            folder: Its name.
            shards: What is in it, all of it written.
        """
        work_folder = self.output.work_folder
        merged = work_folder.merged_folder(folder)
        merged.mkdir(exist_ok=True)
        entries: dict[str, tuple[ShardEntry, ...]] = {
            split: tuple(_entries(work_folder, [one for one in shards if one.split == split]))
            for split in SPLITS
        }
        grouping = write_grouping(merged, self._grouping()) if self.output.grouped else None
        manifest = Manifest(folder, self.tokenizer, entries, grouping)
        with atomic_write(merged / BUILD_FILE) as file:
            file.write(json.dumps(self.build, indent=2).encode() + b"\n")
        write_manifest(merged, manifest)
        path = self.output.final_path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged.rename(path)
        return manifest

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
    """Return what a build noted in a folder; empty: nothing that can be read."""
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
