"""The share of a reference set in each cluster: importance weights, or a row of a basis.

Knows no file. An example x with embedding e counts for the one cluster that it is assigned to or,
smoothed, for the m clusters whose centres c are most similar to it,

    mass_i(x) = exp(<e, c_i> / t) / sum_j exp(<e, c_j> / t),    j among the m nearest,

so that a few hundred examples do not leave almost all of thousands of clusters empty. An example
in which the embedding knows nothing counts for the cluster that it is assigned to either way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import PointArray
from megadga.prepare.reading.texts import chunk_texts

COMPARED_NUMBERS = 1 << 24
"""Bound on the similarities of one step: 128 MiB."""

LEAST_TEMPERATURE = 1e-6
"""Similarities are known to about 1e-7: below, rounding would decide."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How an example's mass is spread over clusters.

    Attributes:
        nearest: Clusters that get some (m), at least 1.
        temperature: Difference of two similarities, which are in [-1, 1], that makes a factor of
            e (t), at least ``LEAST_TEMPERATURE``. Among thousands of clusters, the nearest few
            differ by hundredths.

    Raises:
        ConfigError: If a value is out of range.
    """

    nearest: int
    temperature: float

    def __post_init__(self) -> None:
        if self.nearest < 1:
            raise ConfigError(f"nearest: expected at least 1, found {self.nearest}")
        if not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature: expected {LEAST_TEMPERATURE} <= t < inf, found {self.temperature}"
            )


def histogram(
    texts: Iterable[str], clustering: Clustering, level: int, *, smoothing: Smoothing | None = None
) -> FloatArray:
    """Return the share of a reference set in each cluster, which sum to 1, shape ``(K,)``.

    Args:
        texts: The reference set.
        clustering: What it is compared with.
        level: Its number of clusters (``K``).
        smoothing: None: each example counts for one cluster.

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
            mass += spread(points[known], centroids, smoothing)
    if not mass.any():
        raise ConfigError("texts: expected at least one in a reference set, found none")
    return mass / mass.sum()


def spread(points: PointArray, centroids: PointArray, smoothing: Smoothing) -> FloatArray:
    """Return the mass of points on the clusters nearest to each, 1 a point, shape ``(K,)``.

    Args:
        points: Unit rows, shape ``(n, d)``.
        centroids: Unit rows, or 0 for clusters that get nothing, shape ``(K, d)``.
        smoothing: m and t; if fewer than m clusters may get something, all of these do.
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
