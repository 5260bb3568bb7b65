"""Hierarchical spherical k-means: a tree of clusters out of points. Knows no texts.

The points of each cluster are divided among its children by a k-means of their own, so that
262,144 = 64^3 clusters take 1 + 64 + 4,096 runs of 64 centres and none of 262,144.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from megadga.arrays import IntArray
from megadga.prepare.clustering.embedding import PointArray, unit_rows
from megadga.prepare.clustering.tree import ClusterTree, check_levels
from megadga.prepare.extras import import_extra

POINTS_PER_CENTROID = 256
"""Points that one run of k-means looks at, a centre; more do not move the centres noticeably."""
CHUNK_POINTS = 1 << 16


def grow_tree(
    points: PointArray,
    levels: Sequence[int],
    *,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> ClusterTree:
    """Return clusters at every level.

    Of the points, ``POINTS_PER_CENTROID`` a centre are in memory at a time, besides two integers
    for each. On one thread, the same points and seed give the same bits.

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
            if grown and chosen.size == 0:  # but others may come to it: one child for them
                centroids[parent, 0] = grown[-1][parent]
            progress(1)
        grown.append(centroids.reshape(fine, -1))
        if fine != levels[-1]:
            members, bounds = _group(points, ClusterTree(grown))
    return ClusterTree(grown)


def count_runs(levels: Sequence[int]) -> int:
    """Return how many runs of k-means ``grow_tree`` takes."""
    return 1 + sum(levels[:-1])


def spherical_kmeans(points: PointArray, num_clusters: int, *, seed: int) -> PointArray:
    """Return centres of norm 1, shape ``(num_clusters, d)``.

    If no more than ``num_clusters`` of the points are different, each of these is a centre, and
    the remaining rows are 0: empty clusters. faiss gives every other cluster a point.

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
    """Return the points' indices by cluster of the last level, and where each cluster begins.

    Shapes ``(n,)`` and ``(K + 1,)``.
    """
    level = tree.levels[-1]
    clusters = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), CHUNK_POINTS):
        chunk = np.asarray(points[start : start + CHUNK_POINTS])
        clusters[start : start + CHUNK_POINTS] = tree.assign(chunk, level)
    members = np.argsort(clusters, kind="stable")
    return members, np.searchsorted(clusters[members], np.arange(level + 1))
