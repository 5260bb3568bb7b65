"""Labels the domains of a folder of shards, in two passes over a sample of each.

The first pass counts the words of all domains together, the second compares each domain with
them. Memory does not grow with the domains: a worker holds the words of one domain, or of the
children of one cluster, and the counts of all by a hash of the word.
"""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Protocol, final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.domain import Domain
from megadga.data.folder import ShardFolder, open_split, read_folders
from megadga.data.labels import Label, Labels, Parent
from megadga.data.manifest import manifest_path
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.extras import import_extra
from megadga.prepare.labelling.words import (
    NUM_BUCKETS,
    WordCounts,
    add_counts,
    bucket_counts,
    count_words,
    distinctive_words,
    without_cut_words,
)
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.workers import Workers

NUM_WORDS = 10
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 160
PIECE_TOKENS = 128
"""Tokens of a piece of text, in which a word counts once."""
DOCUMENT_TOKENS = 512
"""Tokens in which the beginning of an example is looked for, and by which it is embedded."""
_CANDIDATES = 16
"""Documents of which the nearest to a centroid are its examples."""
_TASK_TOKENS = 1 << 20
_ALL_TOKENS = 1 << 26
_MIN_TOKENS, _MAX_TOKENS = 1 << 10, 1 << 15


def default_sample(num_domains: int) -> int:
    """Return the tokens to sample of each domain: 64 million of all, in [1024, 32768]."""
    return min(_MAX_TOKENS, max(_MIN_TOKENS, _ALL_TOKENS // num_domains))


class Decoder(Protocol):
    """What labelling needs of a tokenizer; picklable."""

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids, shape ``(n,)``; EOD has none."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Labelling:
    """How a folder of shards is labelled; picklable.

    Attributes:
        folder: Of the domains: with one folder each, or with shards that many share.
        tokenizer: Of the shards.
        sample: Tokens to read of each domain, at least 1.
        clustering: Folder of the clustering whose clusters the domains are, and where its
            embedding model is (None: where it was): examples are the documents nearest to the
            centroid, and clusters of the level above are labelled, too. None: examples are spread
            evenly over the domain.
    """

    folder: Path
    tokenizer: Decoder
    sample: int
    clustering: tuple[Path, Path | None] | None = None


def label_shards(labelling: Labelling, pool: Workers, *, stages: Stages = no_progress) -> Labels:
    """Return the labels of the domains of a folder; the same with any number of workers.

    Args:
        labelling: What is labelled, and how.
        pool: Counts and compares.
        stages: Shows progress, in domains.

    Raises:
        ConfigError: If there are not two domains to compare, a package is not installed, or the
            shards are not of the clustering, at a level of it.
        ShardError: If a shard is missing or damaged.
    """
    opened = _opened(labelling)
    tasks, parents = list(_tasks(opened, labelling.sample)), opened.parents
    progress = stages("counting", len(opened.names), " domains")
    everywhere, num_pieces = np.zeros(NUM_BUCKETS, dtype=np.int64), 0
    for task, (buckets, counts, pieces) in pool.map(partial(_count, labelling), tasks):
        everywhere[buckets] += counts
        num_pieces += pieces
        progress(len(task))
    progress = stages("comparing", len(opened.names), " domains")
    domains: dict[str, Label] = {}
    above: dict[str, Parent] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(counted := Path(folder) / "everywhere.npy", everywhere)
        compare = partial(_compare, labelling, counted, num_pieces)
        for task, (labels, words) in zip(tasks, pool.map_in_order(compare, tasks), strict=True):
            names = [opened.names[number] for number in task]
            domains |= {name: each for name, each in zip(names, labels, strict=True) if each}
            if parents is not None:
                above[parents.name(task[0])] = Parent(words, tuple(names))
            progress(len(task))
    return Labels(domains, above)


@final
@dataclass(frozen=True, slots=True)
class _Parents:
    """The level above, of clusters: each has equally many children, one after the other."""

    level: int
    children: int

    def name(self, child: int) -> str:
        number = child // self.children
        return f"c{number:0{len(str(self.level))}d} of {self.level}"


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A folder of shards: names of all domains, and those that are not empty by number."""

    names: Sequence[str]
    domains: dict[int, Domain]
    clustering: Clustering | None

    @property
    def parents(self) -> _Parents | None:
        if self.clustering is None:
            return None
        above = [level for level in self.clustering.tree.levels if level < len(self.names)]
        return _Parents(above[-1], len(self.names) // above[-1]) if above else None


@functools.lru_cache(maxsize=1)
def _opened(labelling: Labelling) -> _Opened:
    """Open what a task needs, once in a process."""
    folders = read_folders(labelling.folder)
    names = [name for folder in folders for name in folder.domains.names]
    if len(names) < 2:
        raise ConfigError(
            f"{labelling.folder}: expected at least two domains, to tell them apart, "
            f"found {len(names)}"
        )
    clustering = _clustering(labelling, folders, len(names))
    numbers = {name: number for number, name in enumerate(names)}
    opened = open_split(folders, split="train", sequence_length=1)
    return _Opened(names, {numbers[each.name]: each for each in opened.domains}, clustering)


def _clustering(
    labelling: Labelling, folders: Sequence[ShardFolder], level: int
) -> Clustering | None:
    """Load the clustering, after checking that the domains are its clusters."""
    if labelling.clustering is None:
        return None
    path, model = labelling.clustering
    clustering = Clustering.load(path, embedder_path=model)
    found = folders[0].domains.classifier
    if level not in clustering.tree.levels or clustering.classifier(level).fingerprint != found:
        raise ConfigError(
            f"{manifest_path(labelling.folder)}: grouping.classifier: expected clusters of "
            f"{path}, found {level:,} domains of {'another' if found else 'no'} clustering"
        )
    return clustering


def _tasks(opened: _Opened, sample: int) -> Iterator[range]:
    """Yield consecutive numbers of domains: the children of a cluster, or some of all."""
    number = len(opened.names)
    parents = opened.parents
    step = max(1, _TASK_TOKENS // sample) if parents is None else parents.children
    return (range(start, min(start + step, number)) for start in range(0, number, step))


def _count(labelling: Labelling, task: range) -> tuple[IntArray, IntArray, int]:
    """Return buckets of words, their counts, and the number of pieces of some domains."""
    counts = add_counts(list(_word_counts(labelling, task).values()))
    return *bucket_counts(counts), counts.num_pieces


def _compare(
    labelling: Labelling, counted: Path, num_pieces: int, task: range
) -> tuple[list[Label | None], tuple[str, ...]]:
    """Return the labels of some domains, None for an empty one, and the words of all together."""
    everywhere = np.load(counted, mmap_mode="r")
    find = partial(
        distinctive_words, everywhere=everywhere, num_pieces=num_pieces, limit=NUM_WORDS
    )
    opened, counts = _opened(labelling), _word_counts(labelling, task)
    labels: list[Label | None] = []
    for number in task:
        if number in opened.domains:
            examples = tuple(_examples(labelling, opened, number))
            labels.append(Label(find(counts[number]), examples))
        else:
            labels.append(None)
    together = () if opened.parents is None else find(add_counts(list(counts.values())))
    return labels, together


def _word_counts(labelling: Labelling, task: range) -> dict[int, WordCounts]:
    opened = _opened(labelling)
    return {
        number: count_words(_pieces(opened.domains[number], labelling))
        for number in task
        if number in opened.domains
    }


def _pieces(domain: Domain, labelling: Labelling) -> Iterator[str]:
    """Yield the text of pieces that are spread evenly over a domain."""
    width = min(PIECE_TOKENS, domain.num_tokens)
    number = max(1, min(labelling.sample, domain.num_tokens) // width)
    offsets = np.linspace(0, domain.num_tokens - width, number).astype(np.int64)
    rows = domain.stream.gather(domain.begin + offsets, width)
    for offset, row in zip(offsets.tolist(), rows, strict=True):
        documents = _split(row, domain.tokenizer.eod)
        text = "\n".join(labelling.tokenizer.decode(part) for part in documents)
        ends = offset + width == domain.num_tokens
        yield without_cut_words(text, begins=offset == 0, ends=ends)


def _examples(labelling: Labelling, opened: _Opened, number: int) -> list[str]:
    """Return the shortened beginnings of some documents: nearest to the centroid, or any."""
    domain, clustering = opened.domains[number], opened.clustering
    limit = NUM_EXAMPLES if clustering is None else _CANDIDATES
    texts: list[str] = list(dict.fromkeys(_documents(domain, labelling, limit)))
    if clustering is not None and texts:
        threads = import_extra("threadpoolctl", extra="clusters")
        with threads.threadpool_limits(limits=1):  # workers are single-threaded
            points = clustering.embedder.embed(texts)
        similarities = points @ clustering.tree.centroids(len(opened.names))[number]
        nearest: IntArray = np.argsort(-np.asarray(similarities), kind="stable")
        texts = [texts[place] for place in nearest.tolist()]
    return [_shortened(text) for text in texts[:NUM_EXAMPLES]]


def _documents(domain: Domain, labelling: Labelling, number: int) -> Iterator[str]:
    """Yield the beginnings of documents that are spread evenly over a domain.

    Of a long document, in which none begins, a part from its middle.
    """
    width = min(DOCUMENT_TOKENS, domain.num_tokens)
    number = min(number, ceil(domain.num_tokens / width))
    offsets = np.linspace(0, domain.num_tokens - width, number).astype(np.int64)
    rows = domain.stream.gather(domain.begin + offsets, width)
    for offset, row in zip(offsets.tolist(), rows, strict=True):
        first, *others = (
            labelling.tokenizer.decode(part).strip() for part in _split(row, domain.tokenizer.eod)
        )
        begins = [first, *others] if offset == 0 else others
        # The last one may be cut off after a few words.
        longest = max(begins, key=len, default="")
        if len(longest) < EXAMPLE_CHARACTERS and len(first) > len(longest):
            longest = f"… {without_cut_words(first, begins=False, ends=True).strip()}"
        if longest:
            yield longest


def _split(tokens: IntArray, eod: int) -> list[TokenArray]:
    """Return the parts of documents in consecutive tokens, without EOD; the last may be empty."""
    return np.split(tokens, np.flatnonzero(tokens == eod) + 1)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= EXAMPLE_CHARACTERS:
        return line
    return f"{line[: EXAMPLE_CHARACTERS - 1].rstrip()}…"
