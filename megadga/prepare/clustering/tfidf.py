"""TF-IDF and truncated SVD: an embedding that is learned from the text itself.

Knows neither domains nor clusters.

A text's features are its words and signs, hashed into ``V`` buckets. With ``n_f`` the count of
feature f in the text, ``N`` the texts that it was fitted on and ``N_f`` those of them with f,

    x_f = (1 + ln n_f) idf_f,    idf_f = 1 + ln((1 + N) / (1 + N_f)),    e = x Vᵀ / |x Vᵀ|

where the rows of V (d x V) are the leading right singular vectors of the fitted texts' normalised
x: latent semantic analysis (Deerwester et al., 1990). Only ``projection = diag(idf) Vᵀ`` is kept.
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import EmbeddingKind, PointArray, unit_rows
from megadga.prepare.extras import import_extra
from megadga.shards.npz import ArraySpec, read_arrays, write_arrays

NUM_FEATURES = 1 << 16
DIMENSION = 128
SPECS = {"projection": ArraySpec(("<f4",), 2)}

# Thai, Lao, Burmese, Khmer, Han and kana are written without spaces: each character is a feature.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# A sign is a feature of its own: code is told by its braces.
_FEATURE = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]|[^\w\s]")


@final
class TfidfEmbedder:
    """A fitted projection in memory. Made by ``load`` and ``fit_tfidf``."""

    def __init__(self, path: Path, projection: PointArray, fingerprint: str) -> None:
        self._path = path
        self._projection = projection
        self._fingerprint = fingerprint

    @classmethod
    def load(cls, path: Path) -> "TfidfEmbedder":
        """Read what ``fit_tfidf`` wrote.

        Raises:
            ConfigError: If it is missing or damaged.
        """
        projection = read_arrays(path, SPECS, error=ConfigError)["projection"]
        if projection.shape[0] != NUM_FEATURES or projection.shape[1] < 1:
            raise ConfigError(
                f"{path}: projection: expected the shape ({NUM_FEATURES}, d), "
                f"found {projection.shape}"
            )
        if not np.isfinite(projection).all():
            raise ConfigError(f"{path}: projection: expected finite numbers, found others")
        digest = hashlib.sha256(np.ascontiguousarray(projection).data).hexdigest()
        return cls(path, projection, digest)

    @property
    def kind(self) -> EmbeddingKind:
        """Which embedding it is."""
        return "tfidf"

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return self._path

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the projection, hexadecimal."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Numbers of an embedding, ``DIMENSION`` unless it was fitted on fewer texts."""
        return self._projection.shape[1]

    def embed(self, texts: Sequence[str]) -> PointArray:
        """Return unit rows, or 0 where no feature was seen in fitting; each from its text alone.

        Raises:
            ConfigError: If scikit-learn is not installed.
        """
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        counts = _count_features(texts)
        np.log(counts.data, out=counts.data)
        counts.data += 1.0
        return unit_rows(counts @ self._projection)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get the path and read the file once, not with every piece of work.
        return _load_once, (self._path.resolve(), self._fingerprint)


def fit_tfidf(texts: Sequence[str], path: Path, *, seed: int) -> TfidfEmbedder:
    """Fit the embedding to a sample of texts, write it to ``path`` and load it.

    On one thread the same texts in the same order give the same file.

    Args:
        texts: Held in memory, as are their features.
        path: Gets an ``.npz``; its folder must exist.
        seed: Of the randomized SVD, in [0, 2^32).

    Raises:
        ConfigError: If there is no word in the texts, or scikit-learn is not installed.
        OSError: If the file cannot be written.
    """
    counts = _count_features(texts) if texts else None
    if counts is None or counts.nnz == 0:
        raise ConfigError(
            f"texts: expected some words to learn an embedding from, found {len(texts)} texts "
            "without any"
        )
    seen = np.unique(counts.indices)
    weighting = import_extra("sklearn.feature_extraction.text", extra="clusters").TfidfTransformer(
        sublinear_tf=True
    )
    rows = weighting.fit_transform(counts)
    extmath = import_extra("sklearn.utils.extmath", extra="clusters")
    _, singular, axes = extmath.randomized_svd(rows, min(DIMENSION, len(texts)), random_state=seed)
    axes = axes[singular > 1e-5 * singular[0]]  # fewer different texts than dimensions
    projection = np.zeros((NUM_FEATURES, len(axes)), dtype="<f4")  # exactly 0 where unseen
    projection[seen] = (weighting.idf_ * axes).T[seen]
    write_arrays(path, {"projection": projection})
    return TfidfEmbedder.load(path)


def _count_features(texts: Sequence[str]) -> Any:
    """Return a sparse matrix of counts, shape ``(len(texts), V)``, float32."""
    extraction = import_extra("sklearn.feature_extraction", extra="clusters")
    hasher = extraction.FeatureHasher(
        NUM_FEATURES, input_type="dict", dtype=np.float32, alternate_sign=False
    )
    return hasher.transform(Counter(_FEATURE.findall(text.lower())) for text in texts)


@functools.cache
def _load_once(path: Path, fingerprint: str) -> TfidfEmbedder:
    embedder = TfidfEmbedder.load(path)
    if embedder.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found {embedder.fingerprint}: "
            "the file has changed"
        )
    return embedder
