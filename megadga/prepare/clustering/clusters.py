"""Loads and saves clusterings, and assigns texts to clusters."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, final, get_args

import numpy as np

from megadga.arrays import IntArray
from megadga.data.files import atomic_write
from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import (
    Embedder,
    EmbeddingKind,
    SentenceEmbedder,
    TfidfEmbedder,
)
from megadga.prepare.clustering.tree import ClusterTree, check_levels
from megadga.prepare.extras import import_extra
from megadga.prepare.pieces import Classifier, TextCutter
from megadga.prepare.reading.documents import chunk_texts, read_texts
from megadga.prepare.workers import open_processes

FILE_NAME = "clusters.json"


VERSION = 1


_TYPES: Mapping[str, type] = {
    "version": int,
    "embedder": str,
    "embedder_fingerprint": str,
    "embedder_path": str,
    "levels": list,
    "fingerprint": str,
}


@dataclass(frozen=True, slots=True)
class ClusteringRecord:
    """Contents of ``clusters.json``, without its version.

    Attributes:
        embedder: Which embedding it is.
        embedder_fingerprint: SHA-256 as hex digits.
        embedder_path: Where a sentence-transformers model was; the file's name for TF-IDF.
        levels: Numbers of clusters, from coarse to fine.
        fingerprint: Of the clustering, SHA-256 as hex digits.
    """

    embedder: EmbeddingKind
    embedder_fingerprint: str
    embedder_path: str
    levels: tuple[int, ...]
    fingerprint: str


def write_record(folder: Path, record: ClusteringRecord) -> None:
    """Write ``clusters.json`` into ``folder`` atomically.

    Raises:
        OSError: If it cannot be written.
    """
    content = {"version": VERSION, **asdict(record)}
    with atomic_write(folder / FILE_NAME) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def read_record(folder: Path) -> ClusteringRecord:
    """Read ``clusters.json``.

    Raises:
        ConfigError: If there is none, or a key is missing, unknown or of a wrong type or value.
    """
    path = folder / FILE_NAME
    try:
        content: object = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: expected a clustering, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, found {error}") from error
    fields = _fields(content, str(path))
    if fields["version"] != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, found {fields['version']}")
    if fields["embedder"] not in get_args(EmbeddingKind):
        known = " or ".join(get_args(EmbeddingKind))
        raise ConfigError(f"{path}: embedder: expected {known}, found {fields['embedder']!r}")
    if not all(type(level) is int for level in fields["levels"]):
        raise ConfigError(f"{path}: levels: expected integers, found {fields['levels']!r:.60}")
    try:
        levels = check_levels(fields["levels"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return ClusteringRecord(
        embedder=fields["embedder"],
        embedder_fingerprint=fields["embedder_fingerprint"],
        embedder_path=fields["embedder_path"],
        levels=levels,
        fingerprint=fields["fingerprint"],
    )


def _fields(content: object, path: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object, found {type(content).__name__}")
    fields = cast("dict[str, Any]", content)
    if fields.keys() != _TYPES.keys():
        raise ConfigError(
            f"{path}: expected the keys {', '.join(_TYPES)}, found {list(fields)!r:.200}"
        )
    for key, kind in _TYPES.items():
        if type(fields[key]) is not kind:  # exact types: bool is a subclass of int
            raise ConfigError(
                f"{path}: {key}: expected {kind.__name__}, found {type(fields[key]).__name__} "
                f"{json.dumps(fields[key])[:60]}"
            )
    return fields


CENTROIDS_NAME = "centroids.npz"


EMBEDDER_NAME = "embedder.npz"


SPECS = {"centroids": ArraySpec(("<f4",), 2)}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Assigns texts to clusters at every level. Created by ``load``.

    Attributes:
        folder: Where it was read from.
        embedder: Texts to points.
        tree: Points to clusters.
        fingerprint: SHA-256 over the embedder's fingerprint, levels and centres, hexadecimal.
    """

    folder: Path
    embedder: Embedder
    tree: ClusterTree
    fingerprint: str

    @classmethod
    def load(cls, folder: Path, *, embedder_path: Path | None = None) -> "Clustering":
        """Read what ``save_clustering`` wrote.

        Args:
            folder: The clustering's.
            embedder_path: Where the sentence-transformers model is now; None: where it was when
                the clustering was trained.

        Raises:
            ConfigError: If something is missing or damaged, or the model is another one.
        """
        record = read_record(folder)
        embedder = _load_embedder(folder, record, embedder_path)
        if embedder.fingerprint != record.embedder_fingerprint:
            raise ConfigError(
                f"{embedder.path}: expected the embedding {record.embedder_fingerprint} that "
                f"{folder} was trained with, found {embedder.fingerprint}"
            )
        tree = _load_tree(folder, record, embedder.dimension)
        fingerprint = fingerprint_clustering(embedder, tree)
        if fingerprint != record.fingerprint:
            raise ConfigError(
                f"{folder}: expected the fingerprint {record.fingerprint}, found {fingerprint}"
            )
        return cls(folder, embedder, tree, fingerprint)

    def classifier(self, level: int) -> "ClusterClassifier":
        """Return a classifier for the clusters of one level.

        Args:
            level: Its number of clusters (``K``).

        Raises:
            ConfigError: If there is no such level, or scikit-learn is not installed.
        """
        return ClusterClassifier(self, level)


@final
class ClusterClassifier:
    """Assigns texts to the clusters of one level. Created by ``Clustering.classifier``."""

    def __init__(self, clustering: Clustering, level: int) -> None:
        width = len(str(level))
        self._clustering = clustering
        self._level = len(clustering.tree.centroids(level))
        self._names = tuple(f"c{number:0{width}d}" for number in range(level))
        # Created once, as it takes longer than embedding a short text.
        self._threads = import_extra("threadpoolctl", extra="clusters").ThreadpoolController()

    @property
    def names(self) -> Sequence[str]:
        """``c0000``, ``c0001``, ...: the clusters' numbers, all of the width of ``K``."""
        return self._names

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the clustering's fingerprint and the level, hexadecimal."""
        content = f"{self._clustering.fingerprint}/{self._level}"
        return hashlib.sha256(content.encode()).hexdigest()

    def assign(self, texts: Sequence[str]) -> IntArray:
        """Return each text's cluster, in ``[0, K)``, shape ``(len(texts),)``.

        A text without known features is assigned to the first non-empty cluster.
        """
        with self._threads.limit(limits=1):  # there is one process per core
            points = self._clustering.embedder.embed(texts)
            return self._clustering.tree.assign(points, self._level)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes receive the paths and load the files once, instead of with every task.
        folder, embedder = self._clustering.folder.resolve(), self._clustering.embedder
        model = embedder.path.resolve() if embedder.kind == "sentence-transformers" else None
        return _load_once, (folder, model, self._clustering.fingerprint, self._level)


def save_clustering(folder: Path, embedder: Embedder, tree: ClusterTree) -> None:
    """Write a clustering into a folder; the record is written last.

    Args:
        folder: Must exist; a TF-IDF embedding is in it already, as ``EMBEDDER_NAME``.
        embedder: Texts to points.
        tree: Points to clusters.

    Raises:
        OSError: If a file cannot be written.
    """
    centroids = np.concatenate([tree.centroids(level) for level in tree.levels])
    write_arrays(folder / CENTROIDS_NAME, {"centroids": centroids.astype("<f4", copy=False)})
    record = ClusteringRecord(
        embedder=embedder.kind,
        embedder_fingerprint=embedder.fingerprint,
        embedder_path=EMBEDDER_NAME if embedder.kind == "tfidf" else str(embedder.path.resolve()),
        levels=tree.levels,
        fingerprint=fingerprint_clustering(embedder, tree),
    )
    write_record(folder, record)


def fingerprint_clustering(embedder: Embedder, tree: ClusterTree) -> str:
    """Return the SHA-256 over an embedder's fingerprint and all levels' centres, hexadecimal."""
    digest = hashlib.sha256(embedder.fingerprint.encode())
    for level in tree.levels:
        digest.update(level.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(tree.centroids(level), dtype="<f4").data)
    return digest.hexdigest()


def _load_embedder(folder: Path, record: ClusteringRecord, path: Path | None) -> Embedder:
    if record.embedder == "sentence-transformers":
        return SentenceEmbedder.load(path or Path(record.embedder_path))
    if path is not None:
        raise ConfigError(
            f"{path}: expected no embedder, since {folder} has its own (TF-IDF), found one"
        )
    return TfidfEmbedder.load(folder / EMBEDDER_NAME)


def _load_tree(folder: Path, record: ClusteringRecord, dimension: int) -> ClusterTree:
    path = folder / CENTROIDS_NAME
    centroids = read_arrays(path, SPECS, error=ConfigError)["centroids"]
    expected = (sum(record.levels), dimension)
    if centroids.shape != expected:
        raise ConfigError(f"{path}: expected the shape {expected}, found {centroids.shape}")
    if not np.isfinite(centroids).all():
        raise ConfigError(f"{path}: expected finite numbers, found others")
    try:
        return ClusterTree(np.split(centroids, np.cumsum(record.levels)[:-1]))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


@functools.cache
def _load_once(
    folder: Path, model: Path | None, fingerprint: str, level: int
) -> ClusterClassifier:
    clustering = Clustering.load(folder, embedder_path=model)
    if clustering.fingerprint != fingerprint:
        raise ConfigError(
            f"{folder}: expected the fingerprint {fingerprint}, found {clustering.fingerprint}: "
            "the clustering has changed"
        )
    return clustering.classifier(level)


def assign_inputs(
    classifier: Classifier, paths: Sequence[Path], *, cut: TextCutter = list, workers: int = 1
) -> tuple[IntArray, IntArray]:
    """Return each text's cluster, and the number of the input that it comes from.

    Args:
        classifier: Picklable if there are several workers.
        paths: The inputs: files and folders of documents.
        cut: What turns documents into texts.
        workers: Processes, at least 1.

    Returns:
        Two arrays of shape ``(texts,)``, in the order of the inputs.

    Raises:
        ConfigError: If an input cannot be read, or ``workers`` is below 1.
    """
    assign = partial(_assign, classifier=classifier, cut=cut)
    clusters, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    with open_processes(workers) as pool:
        for number, path in enumerate(paths):
            for part in pool.map_in_order(assign, chunk_texts(read_texts([path]))):
                clusters.append(part)
                labels.append(np.full(len(part), number))
    return np.concatenate(clusters), np.concatenate(labels)


def _assign(texts: Sequence[str], *, classifier: Classifier, cut: TextCutter) -> IntArray:
    return classifier.assign(cut(texts))
