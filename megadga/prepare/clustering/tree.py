"""Hierarchical spherical k-means, and the tree of cluster centroids."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray
from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import PointArray, unit_rows
from megadga.prepare.extras import import_extra

GATHERED_NUMBERS = 1 << 22
"""Limit of centroid values gathered per step: 16 MiB."""


MAX_CLUSTERS = 1 << 20
"""At 128 dimensions, centroids of 512 MiB."""


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of clusters, from coarse to fine, after checking them.

    Raises:
        ConfigError: If there is none, one is not a proper multiple of the one before, or the last
            is above ``MAX_CLUSTERS``.
    """
    if not levels:
        raise ConfigError("levels: expected at least one number of clusters, found none")
    if levels[-1] > MAX_CLUSTERS:
        raise ConfigError(f"levels: expected at most {MAX_CLUSTERS} clusters, found {levels[-1]}")
    if levels[0] < 1:
        raise ConfigError(f"levels: expected numbers of at least 1, found {levels[0]}")
    for coarse, fine in pairwise(levels):
        if fine <= coarse or fine % coarse:
            raise ConfigError(
                f"levels: expected a multiple of {coarse} that is larger, found {fine}"
            )
    return tuple(levels)


@final
class ClusterTree:
    """Centroids of the clusters at every level.

    A cluster with centroid 0 is empty: it keeps its index, and no point is assigned to it.

    Args:
        centroids: Per level, from coarse to fine, shape ``(K, d)``: unit rows, or 0 for an empty
            cluster. Some child of every cluster that is not empty is not empty.

    Raises:
        ConfigError: If the levels do not divide one another, or an empty cluster has a non-empty
            child or a non-empty cluster has none.
    """

    def __init__(self, centroids: Sequence[PointArray]) -> None:
        self._levels = check_levels([len(level) for level in centroids])
        self._centroids = tuple(centroids)
        self._occupied: tuple[NDArray[np.bool_], ...] = tuple(
            np.any(level, axis=1) for level in centroids
        )
        parents: NDArray[np.bool_] = np.ones(1, dtype=np.bool_)
        for occupied in self._occupied:
            if not np.array_equal(occupied.reshape(len(parents), -1).any(axis=1), parents):
                raise ConfigError(
                    f"centroids: expected centres under every cluster of {len(parents)} that has "
                    "one and under no other, found a difference"
                )
            parents = occupied

    @property
    def levels(self) -> tuple[int, ...]:
        """Numbers of clusters (``K``), from coarse to fine."""
        return self._levels

    @property
    def dimension(self) -> int:
        """Dimension of the points."""
        return self._centroids[0].shape[1]

    def centroids(self, level: int) -> PointArray:
        """Return the centres of a level, shape ``(K, d)``, 0 for empty clusters.

        Args:
            level: Its number of clusters.

        Raises:
            ConfigError: If there is no such level.
        """
        return self._centroids[self._index(level)]

    def assign(self, points: PointArray, level: int) -> IntArray:
        """Return each point's cluster, shape ``(n,)``, by descending from the root.

        At every level the point goes to the child with the largest inner product, the first of
        equals; a point of 0 therefore goes to the first child that is not empty. A point's
        cluster depends on no other point, bit for bit.

        Args:
            points: Shape ``(n, d)``.
            level: Its number of clusters.

        Raises:
            ConfigError: If there is no such level.
        """
        depth = self._index(level) + 1
        widest = max(
            fine // coarse
            for coarse, fine in zip((1, *self._levels), self._levels[:depth], strict=False)
        )
        step = max(1, GATHERED_NUMBERS // (widest * self.dimension))
        clusters = np.zeros(len(points), dtype=np.int64)
        for start in range(0, len(points), step):
            clusters[start : start + step] = self._descend(points[start : start + step], depth)
        return clusters

    def _descend(self, points: PointArray, depth: int) -> IntArray:
        clusters = np.zeros(len(points), dtype=np.int64)
        parents = 1
        for centroids, occupied in zip(
            self._centroids[:depth], self._occupied[:depth], strict=True
        ):
            children = centroids.reshape(parents, -1, self.dimension)
            if parents > 1:  # the root's children are shared by all points, and not copied
                children = children[clusters]
            # One matrix-vector product per point: in one matrix product, the rounding of a point's
            # result would depend on the number of points.
            products = np.matmul(children, points[:, :, None])[:, :, 0]
            products[~occupied.reshape(parents, -1)[clusters]] = -np.inf
            clusters = clusters * children.shape[1] + products.argmax(axis=1)
            parents = len(centroids)
        return clusters

    def _index(self, level: int) -> int:
        if level not in self._levels:
            raise ConfigError(
                f"level: expected one of {', '.join(map(str, self._levels))}, found {level}"
            )
        return self._levels.index(level)


POINTS_PER_CENTROID = 256
"""Points per centroid in one run of k-means; more do not change the centroids noticeably."""


CHUNK_POINTS = 1 << 16


def grow_tree(
    points: PointArray,
    levels: Sequence[int],
    *,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> ClusterTree:
    """Cluster points at every level.

    Memory: ``POINTS_PER_CENTROID`` points per centroid, and two integers per point. On one thread
    the result is reproducible bit for bit.

    Args:
        points: Unit rows, shape ``(n, d)``, ``n >= 1``; may be a memory-mapped file.
        levels: Numbers of clusters, from coarse to fine, each a multiple of the one before.
        seed: At least 0.
        progress: Called with the runs of k-means since the last call, ``count_runs(levels)`` in
            all.

    Raises:
        ConfigError: If the levels do not divide one another, or faiss is not installed.
    """
    levels = check_levels(levels)
    grown: list[PointArray] = []
    members, bounds = np.arange(len(points)), np.array([0, len(points)])
    for depth, (coarse, fine) in enumerate(zip((1, *levels), levels, strict=False)):
        centroids = np.zeros((coarse, fine // coarse, points.shape[1]), dtype=np.float32)
        for parent in range(coarse):
            rng = np.random.default_rng((seed, depth, parent))
            chosen = members[bounds[parent] : bounds[parent + 1]]
            if chosen.size > (most := POINTS_PER_CENTROID * (fine // coarse)):
                chosen = np.sort(rng.choice(chosen, most, replace=False))
            centroids[parent] = spherical_kmeans(
                np.asarray(points[chosen]), fine // coarse, seed=int(rng.integers(1 << 31))
            )
            if grown and chosen.size == 0:  # other points may be assigned to it: needs one child
                centroids[parent, 0] = grown[-1][parent]
            progress(1)
        grown.append(centroids.reshape(fine, -1))
        if fine != levels[-1]:
            members, bounds = _group(points, ClusterTree(grown))
    return ClusterTree(grown)


def count_runs(levels: Sequence[int]) -> int:
    """Return the number of k-means runs in ``grow_tree``."""
    return 1 + sum(levels[:-1])


def spherical_kmeans(points: PointArray, num_clusters: int, *, seed: int) -> PointArray:
    """Return centroids of norm 1, shape ``(num_clusters, d)``.

    If there are at most ``num_clusters`` distinct points, these are the centroids, and the
    remaining rows are 0, for empty clusters. Otherwise faiss gives every cluster a point.

    Args:
        points: Unit rows, shape ``(n, d)``, ``n >= 0``.
        num_clusters: At least 1.
        seed: In [0, 2^31).

    Raises:
        ConfigError: If faiss is not installed.
    """
    different = np.unique(points, axis=0)
    if len(different) <= num_clusters:
        centroids = np.zeros((num_clusters, points.shape[1]), dtype=np.float32)
        centroids[: len(different)] = different
        return centroids
    faiss: Any = import_extra("faiss", extra="clusters")
    kmeans = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,  # below which faiss prints a warning
        max_points_per_centroid=len(points),  # they have been drawn already
    )
    kmeans.train(points)
    return unit_rows(kmeans.centroids)


def _group(points: PointArray, tree: ClusterTree) -> tuple[IntArray, IntArray]:
    """Return the points' indices sorted by cluster of the last level, and the clusters' offsets.

    Shapes ``(n,)`` and ``(K + 1,)``.
    """
    level = tree.levels[-1]
    clusters = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), CHUNK_POINTS):
        chunk = np.asarray(points[start : start + CHUNK_POINTS])
        clusters[start : start + CHUNK_POINTS] = tree.assign(chunk, level)
    members = np.argsort(clusters, kind="stable")
    return members, np.searchsorted(clusters[members], np.arange(level + 1))
