"""A tree of cluster centres: which cluster a point is in. Knows neither texts nor how it grew.

Cluster c of a level with ``f`` times as many clusters as the one above is a child of c // f, so a
point's cluster at a coarser level is a quotient of its cluster at a finer one.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import IntArray
from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import PointArray

GATHERED_NUMBERS = 1 << 22
"""Bound on the numbers of centres that are gathered for the points of one step: 16 MiB."""


MOST_CLUSTERS = 1 << 20
"""At 128 dimensions, centroids of 512 MiB."""


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of clusters, from coarse to fine, after checking them.

    Raises:
        ConfigError: If there is none, one is not a proper multiple of the one before, or the last
            is above ``MOST_CLUSTERS``.
    """
    if not levels:
        raise ConfigError("levels: expected at least one number of clusters, found none")
    if levels[-1] > MOST_CLUSTERS:
        raise ConfigError(f"levels: expected at most {MOST_CLUSTERS} clusters, found {levels[-1]}")
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
    """Centres of the clusters at every level.

    A cluster without a centre is empty: it has its number and is nobody's cluster.

    Args:
        centroids: Per level, from coarse to fine, shape ``(K, d)``: unit rows, or 0 for an empty
            cluster. Some child of every cluster that is not empty is not empty.

    Raises:
        ConfigError: If the levels do not divide one another, or an empty cluster lies above one
            that is not, or the other way round.
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
        """Numbers of a point."""
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
            if parents > 1:  # a root's children are everybody's, and need not be copied
                children = children[clusters]
            # One product of a matrix and a vector a point: as one product of matrices, the last
            # bits of a point's would depend on how many there are.
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
