"""The second half of a build: sorted runs to shards. Knows no text.

The documents of a split, sorted by domain and by a random key, make up one order over all runs.
Any range of it is gathered by itself, so memory is bounded by the range, whatever the corpus.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.prepare.pipeline.recipe import SPLITS
from megadga.prepare.pipeline.runs import (
    SPLIT_SHIFT,
    Documents,
    Point,
    Run,
    divide_groups,
    group_numbers,
    split_documents,
)
from megadga.prepare.pipeline.workplace import Workplace
from megadga.shards.indexed import TokenType
from megadga.shards.manifest import ShardEntry
from megadga.shards.writer import ShardWriter

GATHERED_TOKENS = 1 << 20
TRAIN, VALID = range(len(SPLITS))


@dataclass(frozen=True, eq=False)
class SortedRun:
    """Where a run is, and what its domains are called elsewhere.

    Attributes:
        name: Its name in the workplace.
        domains: The number of each of its domains over all runs, rising; None: the same.
    """

    name: str
    domains: IntArray | None


@dataclass(frozen=True, eq=False)
class Sizes:
    """How much there is.

    Attributes:
        documents: Of each domain in each split, shape ``(splits, K)``.
        tokens: The same in tokens.
    """

    documents: IntArray
    tokens: IntArray

    def trained_on(self, domains: IntArray) -> "Sizes":
        """Return what it is when all of some domains is in the training split."""
        moved: list[IntArray] = []
        for sizes in (self.documents, self.tokens):
            sums = sizes.copy()
            sums[TRAIN, domains] = sizes[:, domains].sum(axis=0)
            sums[VALID, domains] = 0
            moved.append(sums)
        return Sizes(*moved)


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
    points: tuple[Point, ...]
    num_tokens: int

    @property
    def name(self) -> str:
        """The name of its files without their suffixes."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class Merging:
    """What a worker does with a shard; the same for all shards of a build.

    Attributes:
        workplace: Where runs are and shards go.
        runs: All of them, in the order of the corpus.
        dtype: Type of the tokens.
        ids: Whether documents have ids.
        whole: Domains all of whose held out documents go into the training split, rising.
    """

    workplace: Workplace
    runs: Sequence[SortedRun]
    dtype: TokenType
    ids: bool
    whole: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __call__(self, task: ShardTask) -> ShardEntry:
        """Write one shard; it is whole, and recorded, when this returns."""
        prefix = self.workplace.shard_prefix(task.folder, task.name)
        prefix.parent.mkdir(exist_ok=True)
        with ShardWriter(prefix, self.dtype, ids=self.ids) as writer:
            for first, last in pairwise(task.points):
                for documents in self._gathered(first, last):
                    writer.add_documents(documents.tokens, documents.lengths, documents.ids)
        self.workplace.keep_shard(task.folder, writer.entry)
        return writer.entry

    def sizes(self, num_domains: int) -> Sizes:
        """Return what all runs hold; reads their lists of groups."""
        shape = (len(SPLITS), num_domains)
        documents, tokens = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for sorted_run in self.runs:
            run = self._open(sorted_run)
            splits, domains = divide_groups(run.groups)
            documents[splits, domains] += run.num_documents  # each group comes once in a run
            tokens[splits, domains] += run.num_tokens
        return Sizes(documents, tokens)

    def _gathered(self, first: Point, last: Point) -> Iterator[Documents]:
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
                yield Documents(
                    tokens=np.concatenate([tokens[place] for place in places]),
                    lengths=lengths[chosen],
                    groups=groups[chosen],
                    keys=keys[chosen],
                    ids=[ids[place] for place in places] if self.ids else (),
                )

    def _parts(self, run: Run, first: Point, last: Point) -> Iterator[Documents]:
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
                begin = Point(VALID, domain, first.key if domain == first.domain else 0)
                end = replace(last, split=VALID)
                part = run.between(
                    begin, end if domain == last.domain else Point(VALID, domain + 1)
                )
                yield replace(part, groups=part.groups - (VALID << SPLIT_SHIFT))

    def _open(self, run: SortedRun) -> Run:
        return Run(self.workplace.run_prefix(run.name), self.dtype, domains=run.domains)


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
        points.append(Point(number, domains.stop))
        for shard in range(num_shards):
            cuts = points[shard * num_ranges : (shard + 1) * num_ranges + 1]
            yield ShardTask(folder, split, shard, tuple(cuts), total // num_shards)


def _point(split: int, first: int, tokens: IntArray, target: int) -> Point:
    """Return the point before which about ``target`` tokens of a split's domains come.

    Keys are spread evenly: a fraction of a domain's tokens lies below that fraction of 2^64.
    """
    ends = np.cumsum(tokens)
    domain = int(np.searchsorted(ends, target, side="right"))
    held = int(tokens[domain])
    before = int(ends[domain]) - held
    key = (target - before << 64) // held
    return Point(split, first + domain, key)
