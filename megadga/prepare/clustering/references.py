"""Histograms of reference sets over clusters: importance weights, or rows of a basis."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.mixers.basis import Basis, write_basis
from megadga.mixers.importance import write_histogram
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import PointArray
from megadga.prepare.pieces import TextCutter
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.reading.documents import chunk_texts, count_bytes, read_texts
from megadga.prepare.reading.inputs import expand_inputs
from megadga.prepare.reading.records import BadRecords

COMPARED_NUMBERS = 1 << 24
"""Limit of similarities computed per step: 128 MiB."""


MIN_TEMPERATURE = 1e-6
"""Similarities have a rounding error of about 1e-7."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How the mass of an example is distributed over clusters.

    Attributes:
        nearest: Number of nearest clusters that get mass (m), at least 1.
        temperature: Softmax temperature of cosine similarities (t), at least ``MIN_TEMPERATURE``.
            Among thousands of clusters, the nearest few differ by hundredths.

    Raises:
        ConfigError: If a value is out of range.
    """

    nearest: int
    temperature: float

    def __post_init__(self) -> None:
        if self.nearest < 1:
            raise ConfigError(f"nearest: expected at least 1, found {self.nearest}")
        if not MIN_TEMPERATURE <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature: expected {MIN_TEMPERATURE} <= t < inf, found {self.temperature}"
            )


def histogram(
    texts: Iterable[str], clustering: Clustering, level: int, *, smoothing: Smoothing | None = None
) -> FloatArray:
    """Return the fraction of a reference set in each cluster, shape ``(K,)``, with sum 1.

    Args:
        texts: The reference set.
        clustering: The clustering.
        level: Its number of clusters (``K``).
        smoothing: None: each example is assigned to one cluster.

    Raises:
        ConfigError: If there is no text or no such level.
    """
    centroids = clustering.tree.centroids(level)
    mass = np.zeros(level)
    for chunk in chunk_texts(texts):
        points = clustering.embedder.embed(chunk)
        known = points.any(axis=1) if smoothing else np.zeros(len(points), dtype=np.bool_)
        clusters = clustering.tree.assign(points[~known], level)
        mass += np.bincount(clusters, minlength=level)
        if smoothing:
            mass += spread_mass(points[known], centroids, smoothing)
    if not mass.any():
        raise ConfigError("texts: expected at least one in a reference set, found none")
    return mass / mass.sum()


def spread_mass(points: PointArray, centroids: PointArray, smoothing: Smoothing) -> FloatArray:
    """Return the mass of points on their nearest clusters, 1 per point, shape ``(K,)``.

    Args:
        points: Unit rows, shape ``(n, d)``.
        centroids: Unit rows, or 0 for empty clusters, shape ``(K, d)``.
        smoothing: m and t; m is limited to the number of non-empty clusters.
    """
    occupied = np.flatnonzero(centroids.any(axis=1))
    nearest = min(smoothing.nearest, occupied.size)
    mass = np.zeros(len(centroids))
    step = max(1, COMPARED_NUMBERS // occupied.size)
    for start in range(0, len(points), step):
        similarities = points[start : start + step] @ centroids[occupied].T
        columns = np.argpartition(-similarities, nearest - 1, axis=1)[:, :nearest]
        logits = np.take_along_axis(similarities, columns, axis=1) / np.float64(
            smoothing.temperature
        )
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.add.at(mass, occupied[columns], shares / shares.sum(axis=1, keepdims=True))
    return mass


def parse_references(
    arguments: Sequence[str], *, output: Path | None = None
) -> dict[str, tuple[Path, ...]]:
    """Return the files and folders of each reference set, in order of first appearance.

    Args:
        arguments: ``NAME=GLOB``; a name may be repeated with further files.
        output: A file that will be written, which is excluded from matches.

    Raises:
        ConfigError: If one has another form, or a pattern matches nothing that is an input.
    """
    patterns: dict[str, list[str]] = {}
    for argument in arguments:
        name, equals, pattern = argument.partition("=")
        if not (name and equals and pattern):
            raise ConfigError(f"{argument}: expected NAME=GLOB, found something else")
        if not name.isprintable():
            raise ConfigError(f"{name!r}: expected a name of printable characters, found others")
        patterns.setdefault(name, []).append(pattern)
    return {name: expand_inputs(globs, output=output) for name, globs in patterns.items()}


def measure_references(
    references: Mapping[str, Sequence[Path]],
    clustering: Clustering,
    level: int,
    *,
    cut: TextCutter = list,
    text_key: str = "text",
    bad: BadRecords | None = None,
    smoothing: Smoothing | None = None,
    stages: Stages = no_progress,
) -> Basis:
    """Return the fractions of each reference set in each cluster, one row per set.

    Args:
        references: Files and folders of each set, by its name.
        clustering: What they are compared with.
        level: Its number of clusters (``K``).
        cut: What turns documents into texts; that of the domains.
        text_key: Where the objects of JSON lines have their text.
        bad: Counts the bad records of all sets; None: the first is too many.
        smoothing: None: each text counts for one cluster.
        stages: Shows progress, in bytes of input.

    Raises:
        ConfigError: If there is no such level, or a set cannot be read or has no text, or too many
            records are bad.
    """
    progress = stages("measuring", count_bytes(chain.from_iterable(references.values())), "B")
    classifier = clustering.classifier(level)
    rows: list[FloatArray] = []
    bad = bad or BadRecords()
    for name, paths in references.items():
        documents = read_texts(paths, text_key=text_key, bad=bad, progress=progress)
        texts = chain.from_iterable(map(cut, chunk_texts(documents)))
        try:
            rows.append(histogram(texts, clustering, level, smoothing=smoothing))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    bad.check_all()
    return Basis.from_rows(
        rows,
        names=tuple(references),
        domains=classifier.names,
        clustering=classifier.fingerprint,
    )


def write_shares(path: Path, basis: Basis) -> None:
    """Write a basis to an ``.npz``, or a single row to a ``.json`` as fractions by domain.

    Raises:
        ConfigError: If the name ends otherwise, the rows are several for a ``.json``, or the file
            cannot be written.
    """
    check_output(path, len(basis.names))
    if path.suffix == ".npz":
        write_basis(path, basis)
    else:
        write_histogram(path, dict(zip(basis.domains, basis.row(0).tolist(), strict=True)))


def check_output(path: Path, num_references: int) -> None:
    """Check the output path for ``write_shares`` in advance.

    Raises:
        ConfigError: If it ends otherwise, or in ``.json`` for several reference sets.
    """
    if path.suffix not in (".json", ".npz"):
        raise ConfigError(f"{path}: expected a name that ends in .json or .npz, found another")
    if path.suffix == ".json" and num_references > 1:
        raise ConfigError(f"{path}: expected one set for a .json, found {num_references}")


def describe_rows(basis: Basis) -> Iterator[str]:
    """Yield one line per row: its name, its number of clusters, and the largest one."""
    for index, name in enumerate(basis.names):
        row = basis.row(index)
        largest = int(row.argmax())
        yield (
            f"{name}: in {np.count_nonzero(row):,} of {row.size:,} clusters, "
            f"most in {basis.domains[largest]} ({row[largest]:.3f})"
        )
