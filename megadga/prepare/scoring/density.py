"""Scores documents by how few others are like them: inverse propensity by a sketch of densities.

DENSITY of Sachdeva et al. ("How to Train Data-Efficient LLMs", arXiv 2402.09668, section 3.2 and
algorithm 2): the density at a document is the sum of a kernel over all documents. A sketch (RACE;
Coleman, Shrivastava, arXiv 1912.02283) has it in memory that does not grow with them: rows of
counters, each with a locality-sensitive hash function of its own, whose probability of a collision
is the kernel. First all documents are counted, then the counters of each one's own hashes are
averaged.

Algorithm 2 as it is printed selects with probability ``S / sum(S)``, which prefers what is
frequent already. Their theorem A.2 and section 3.3 say ``1 / S``, by which the sample is uniform
over where documents are; that is what is done here: the score is ``-log S``, to be sampled with
temperature 1. (The algorithm also has one name for the sketch and the list of scores.)

The kernel is a choice of ours: embeddings are on the unit sphere, so hashes are signs of random
projections (Charikar 2002), and with ``b`` bits two documents at an angle of ``a`` collide with
probability ``(1 - a / pi) ** b``.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.targets import unmark_targets
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import FILE_NAME as CLUSTERING_FILE
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import Embedder, PointArray, SentenceEmbedder
from megadga.prepare.extras import import_extra
from megadga.prepare.labelling.shards import Decoder
from megadga.prepare.scoring.scorers import Measured

HashArray = NDArray[np.uint16]
"""Hashes of points by each hash function, shape ``(n, R)``."""

_CHUNK = 256


@final
@dataclass(frozen=True, slots=True)
class SignHashes:
    """Locality-sensitive hash functions of points on the unit sphere.

    Attributes:
        functions: Number of functions (``R``), at least 1. The relative error of a density falls
            as ``1 / sqrt(R)``.
        bits: Bits of each (``b``), in [1, 16]: the narrower the kernel, the more.
        seed: Of their directions, in [0, 2^32).

    Raises:
        ConfigError: If a number is out of range.
    """

    functions: int = 512
    bits: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.functions < 1:
            raise ConfigError(f"hashes: expected at least 1, found {self.functions}")
        if not 1 <= self.bits <= 16:
            raise ConfigError(f"hash_bits: expected 1 <= N <= 16, found {self.bits}")
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed: expected 0 <= N < 2^32, found {self.seed}")

    def hash(self, points: PointArray) -> HashArray:
        """Return each point's hashes, in ``[0, 2**bits)``, shape ``(n, R)``.

        Args:
            points: Shape ``(n, d)``.
        """
        directions = _directions(self, points.shape[1])
        powers = (1 << np.arange(self.bits)).astype(np.uint16)
        hashes = np.empty((len(points), self.functions), dtype=np.uint16)
        for begin in range(0, len(points), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            positive = points[part] @ directions >= 0.0
            hashes[part] = positive.reshape(-1, self.functions, self.bits) @ powers
        return hashes


@functools.lru_cache(maxsize=1)
def _directions(hashes: SignHashes, dimension: int) -> PointArray:
    """Return the normal vectors of random hyperplanes, shape ``(d, R * b)``."""
    rng = np.random.default_rng((hashes.seed, dimension))
    return rng.standard_normal((dimension, hashes.functions * hashes.bits), dtype=np.float32)


@final
class DensitySketch:
    """Counts points by their hashes.

    Args:
        hashes: The hash functions.

    Attributes:
        num_points: Points so far.
    """

    def __init__(self, hashes: SignHashes) -> None:
        self._range = 1 << hashes.bits
        self._rows: IntArray = np.arange(hashes.functions, dtype=np.int64) * self._range
        self._counts = np.zeros(hashes.functions * self._range, dtype=np.int64)
        self.num_points = 0

    def add(self, hashes: HashArray) -> None:
        """Count some points, by their hashes, shape ``(n, R)``."""
        places = (hashes + self._rows).ravel()
        self._counts += np.bincount(places, minlength=self._counts.size)
        self.num_points += len(hashes)

    def densities(self, hashes: HashArray) -> FloatArray:
        """Return the mean kernel between each of some points and all that were counted.

        Args:
            hashes: Of the points, shape ``(n, R)``.

        Returns:
            In [0, 1], shape ``(n,)``; at least ``1 / num_points`` for points that were counted.
        """
        return self._counts[hashes + self._rows].mean(axis=1) / self.num_points


@final
@dataclass(frozen=True, eq=False)
class HashDocuments:
    """Hashes of documents' embeddings; a ``Measure``.

    Attributes:
        embedder: Embeds their texts.
        tokenizer: Decodes them.
        hashes: Hashes the embeddings.
    """

    embedder: Embedder
    tokenizer: Decoder
    hashes: SignHashes

    def __call__(self, documents: Sequence[IntArray]) -> HashArray:
        """Return the hashes of some documents, shape ``(n, R)``."""
        texts = [self.tokenizer.decode(unmark_targets(tokens)[0]) for tokens in documents]
        threads = import_extra("threadpoolctl", extra="clusters")
        with threads.threadpool_limits(limits=1):  # the same sums with any number of workers
            return self.hashes.hash(self.embedder.embed(texts))


@final
@dataclass(frozen=True, eq=False)
class DensityScorer:
    """Scores documents by ``-log`` of the density of all scored documents at each; a ``Scorer``.

    A document that nothing is like has ``log n``, one of which there are only copies 0.

    Attributes:
        measure: Hashes documents.
    """

    measure: HashDocuments

    @property
    def description(self) -> str:
        """What the scores depend on, beside the documents."""
        hashes = self.measure.hashes
        return (
            f"density: embedder {self.measure.embedder.fingerprint[:16]}, {hashes.functions} "
            f"hashes of {hashes.bits} bits, seed {hashes.seed}"
        )

    @property
    def relative(self) -> bool:
        """A density is one among the documents that are scored together."""
        return True

    @property
    def passes(self) -> Sequence[HashDocuments]:
        """One pass: the rest is counting."""
        return (self.measure,)

    def finish(self, measured: Sequence[Measured]) -> FloatArray:
        """Return the scores of all documents."""
        (hashes,) = measured
        sketch = DensitySketch(self.measure.hashes)
        for part in hashes():
            sketch.add(part)
        return np.concatenate([-np.log(sketch.densities(part)) for part in hashes()])


def open_embedder(path: Path) -> Embedder:
    """Open an embedding: that of a clustering, or a sentence-transformers model.

    Args:
        path: A folder of ``megadga data cluster``, or of a model.

    Raises:
        ConfigError: If it is neither, damaged, or a package is not installed.
    """
    if (path / CLUSTERING_FILE).exists():
        return Clustering.load(path).embedder
    return SentenceEmbedder.load(path)
