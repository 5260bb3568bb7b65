"""Trains a clustering on documents, and measures its purity."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import EMBEDDER_NAME, Clustering, save_clustering
from megadga.prepare.clustering.embedding import Embedder, PointArray, fit_tfidf
from megadga.prepare.clustering.tree import (
    POINTS_PER_CENTROID,
    check_levels,
    count_runs,
    grow_tree,
)
from megadga.prepare.extras import import_extra
from megadga.prepare.pieces import TextCutter
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.reading.documents import (
    TextSample,
    chunk_texts,
    count_bytes,
    read_texts,
    sample_texts,
    subsample,
)
from megadga.prepare.reading.inputs import describe_skipped, training_inputs
from megadga.prepare.reading.records import BadRecords, MaxBad
from megadga.prepare.workers import Workers, open_processes


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """What a division of items into clusters is like.

    Attributes:
        clusters: Their number (``K``).
        purity: See ``purity``.
        empty: Clusters without an item.
        smallest: Items of the smallest cluster.
        median: Items of the median cluster.
        largest: Items of the largest cluster.
    """

    clusters: int
    purity: float
    empty: int
    smallest: int
    median: float
    largest: int


def purity(clusters: IntArray, labels: IntArray) -> float:
    """Return the share of items whose label is the most frequent one of their cluster, in (0, 1].

    Args:
        clusters: Each item's, at least 0, shape ``(n,)``, ``n >= 1``.
        labels: Each item's, at least 0, shape ``(n,)``.

    Raises:
        ValueError: If the shapes differ, or there is no item.
    """
    if clusters.shape != labels.shape or clusters.ndim != 1 or clusters.size == 0:
        raise ValueError(
            f"labels: expected shape (n,) with n >= 1, as for clusters, found {labels.shape} "
            f"and {clusters.shape}"
        )
    pairs, counts = np.unique(np.stack([clusters, labels]), axis=1, return_counts=True)
    largest = np.zeros(int(clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, pairs[0], counts)
    return int(largest.sum()) / clusters.size


def summarize_clusters(
    clusters: IntArray, labels: IntArray, *, levels: Sequence[int]
) -> tuple[ClusterSummary, ...]:
    """Return purity and sizes at every level.

    Args:
        clusters: Each item's at the last level, in [0, K), shape ``(n,)``, ``n >= 1``.
        labels: Each item's, at least 0, shape ``(n,)``.
        levels: Numbers of clusters of a tree, from coarse to fine.

    Raises:
        ValueError: If the shapes differ, or there is no item.
    """
    return tuple(
        _summarize(clusters // (levels[-1] // level), labels, num_clusters=level)
        for level in levels
    )


def _summarize(clusters: IntArray, labels: IntArray, *, num_clusters: int) -> ClusterSummary:
    sizes = np.bincount(clusters, minlength=num_clusters)
    return ClusterSummary(
        clusters=num_clusters,
        purity=purity(clusters, labels),
        empty=int((sizes == 0).sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
    )


SAMPLE_CHARACTERS = 1 << 25


@dataclass(frozen=True, slots=True)
class ClusteringRecipe:
    """How documents become a clustering.

    Attributes:
        levels: Numbers of clusters, from coarse to fine, each a multiple of the one before.
        cut: Turns documents into texts (``text_cutter``); ``list``: one text per document.
        text_key: Where the objects of JSON lines have their text.
        seed: Of samples, embedding and k-means, in [0, 2^32).
        max_bad: Limit of invalid records, each time that the input is read.

    Raises:
        ConfigError: If the levels do not divide one another, or the seed is out of range.
    """

    levels: tuple[int, ...]
    cut: TextCutter = list
    text_key: str = "text"
    seed: int = 0
    max_bad: MaxBad = MaxBad()

    def __post_init__(self) -> None:
        check_levels(self.levels)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed: expected 0 <= N < 2^32, found {self.seed}")


def train_clusters(
    paths: Sequence[Path],
    output: Path,
    recipe: ClusteringRecipe,
    *,
    embedder: Embedder | None = None,
    workers: int = 1,
    stages: Stages = no_progress,
    report: Callable[[str], object] = lambda _: None,
) -> Clustering:
    """Train a clustering and write its folder atomically.

    The input is read twice: for a sample of ``SAMPLE_CHARACTERS``, which TF-IDF is fitted to, and
    for enough documents to have ``POINTS_PER_CENTROID`` texts per cluster, whose embeddings
    are kept
    in a temporary file: ``1024 d`` bytes per cluster. Memory does not grow with the
    input. The same input, recipe and embedder give the same bytes, whatever the number of workers;
    with a sentence-transformers model, as far as its embeddings are the same.

    Args:
        paths: Files and folders of documents, of which those named after validation or test are
            skipped; every document has the same probability.
        output: Must not exist; folders above it are made.
        recipe: Levels, pieces, text key and seed.
        embedder: None: TF-IDF, fitted to the input.
        workers: Processes that cut and embed, at least 1.
        stages: Shows progress; bytes of input, then runs of k-means.
        report: Called with a line on the files and one on the records that were skipped, if
            there are any.

    Raises:
        ConfigError: If the output exists or cannot be written, an input cannot be read or none is
            to train on, too many records are bad, there is no text to learn from, a package is not
            installed, or ``workers`` is below 1.
    """
    if output.exists():
        raise ConfigError(f"{output}: expected no folder of this name yet, found one")
    inputs = training_inputs(paths)
    for line in describe_skipped(paths):
        report(line)
    partial_output = output.with_name(f".{output.name}.partial")
    # One thread: how sums are divided among several depends on their number.
    threads = import_extra("threadpoolctl", extra="clusters")
    import_extra("faiss", extra="clusters")  # loaded by now, its threads are limited as well
    with open_processes(workers) as pool, threads.threadpool_limits(limits=1):
        try:
            shutil.rmtree(partial_output, ignore_errors=True)
            partial_output.mkdir(parents=True)
            _ClusterTraining(inputs, recipe, pool, stages, report).write(partial_output, embedder)
            partial_output.rename(output)
        except OSError as error:
            raise ConfigError(f"{output}: expected to write it, found {error}") from error
        finally:
            shutil.rmtree(partial_output, ignore_errors=True)  # gone already if it was renamed
    return Clustering.load(output, embedder_path=None if embedder is None else embedder.path)


@dataclass(frozen=True, slots=True)
class _ClusterTraining:
    """State shared by the steps of training a clustering."""

    paths: Sequence[Path]
    recipe: ClusteringRecipe
    pool: Workers
    stages: Stages
    report: Callable[[str], object]

    def write(self, folder: Path, embedder: Embedder | None) -> None:
        """Write a clustering into a folder."""
        sample = sample_texts(
            self._read("sampling"), max_characters=SAMPLE_CHARACTERS, seed=self.recipe.seed
        )
        chunks = chunk_texts(sample.texts)
        texts = list(chain.from_iterable(self.pool.map_in_order(self.recipe.cut, chunks)))
        if not texts:
            raise ConfigError("texts: expected some to train clusters on, found none")
        if embedder is None:
            embedder = fit_tfidf(texts, folder / EMBEDDER_NAME, seed=self.recipe.seed)
        points_file = folder / "points.f32"
        self._embed(embedder, points_file, fraction=self._fraction(sample, texts))
        points = np.memmap(points_file, np.float32, "r").reshape(-1, embedder.dimension)
        tree = grow_tree(
            points,
            self.recipe.levels,
            seed=self.recipe.seed,
            progress=self.stages("clustering", count_runs(self.recipe.levels), " runs"),
        )
        points_file.unlink()
        save_clustering(folder, embedder, tree)

    def _fraction(self, sample: TextSample, texts: Sequence[str]) -> float:
        """Return the fraction of documents that yields as many texts as k-means uses."""
        wanted = POINTS_PER_CENTROID * self.recipe.levels[-1]
        sampled_characters = sum(map(len, sample.texts))
        return wanted * sampled_characters / (len(texts) * sample.num_characters)

    def _embed(self, embedder: Embedder, file: Path, *, fraction: float) -> None:
        """Write the non-zero embeddings of a fraction of the documents to a file."""
        chosen = subsample(self._read("embedding"), fraction=fraction, seed=self.recipe.seed)
        embed = partial(_embed, embedder=embedder, cut=self.recipe.cut)
        num_points = 0
        with file.open("wb") as points:
            for rows in self.pool.map_in_order(embed, chunk_texts(chosen)):
                points.write(rows.tobytes())
                num_points += len(rows)
        if num_points == 0:
            raise ConfigError(
                "texts: expected some with features known to the embedding, found none"
            )

    def _read(self, stage: str) -> Iterator[str]:
        progress = self.stages(stage, count_bytes(self.paths), "B")
        bad = BadRecords(self.recipe.max_bad)
        yield from read_texts(
            self.paths, text_key=self.recipe.text_key, bad=bad, progress=progress
        )
        bad.check_all()
        if stage == "sampling":  # later passes read the same input
            for line in bad.describe():
                self.report(line)


def _embed(texts: Sequence[str], *, embedder: Embedder, cut: TextCutter) -> PointArray:
    threads = import_extra("threadpoolctl", extra="clusters")
    with threads.threadpool_limits(limits=1):  # workers are single-threaded
        points = embedder.embed(cut(texts))
    return points[points.any(axis=1)]
