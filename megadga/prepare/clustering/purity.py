"""How well clusters keep apart what is known to differ, and how large they are.

Knows numbers only. Clusters as small as one item are pure: compare at equal numbers of clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megadga.arrays import IntArray


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
