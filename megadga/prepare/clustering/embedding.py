"""Embeddings of texts on the unit sphere: TF-IDF with SVD, or sentence-transformers."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray

from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.errors import ConfigError
from megadga.prepare.extras import import_extra, restrain_comet

EmbeddingKind = Literal["tfidf", "sentence-transformers"]


PointArray = NDArray[np.float32]
"""Points, shape ``(n, d)``."""


class Embedder(Protocol):
    """Embeds texts; pickled as its path, for worker processes."""

    @property
    def kind(self) -> EmbeddingKind:
        """Which embedding it is."""
        ...

    @property
    def path(self) -> Path:
        """The file or folder that it was read from."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it was read from, hexadecimal."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of an embedding (``d``), at least 1."""
        ...

    def embed(self, texts: Sequence[str]) -> PointArray:
        """Return the texts' embeddings, shape ``(len(texts), d)``.

        Rows have norm 1, or 0 for a text without known features.
        """
        ...


def unit_rows(rows: PointArray) -> PointArray:
    """Return every row divided by its norm; rows of 0 stay. Shape ``(n, d)``."""
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0.0)


NUM_FEATURES = 1 << 16


DIMENSION = 128


SPECS = {"projection": ArraySpec(("<f4",), 2)}


# Thai, Lao, Burmese, Khmer, Han and kana are written without spaces: each character is a feature.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)


# Punctuation marks are separate features, as they distinguish code.
_FEATURE = re.compile(rf"[^\W{UNSPACED}]+|[{UNSPACED}]|[^\w\s]")


@final
class TfidfEmbedder:
    """A fitted projection in memory. Created by ``load`` and ``fit_tfidf``."""

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
        """Return unit rows, or 0 without known features; independent of other texts.

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
        # Worker processes receive the path and load the file once, instead of with every task.
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
            f"texts: expected some words to fit an embedding to, found {len(texts)} texts "
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


@final
class SentenceEmbedder:
    """A sentence-transformers model. Created by ``load``."""

    def __init__(self, path: Path, model: Any, fingerprint: str) -> None:
        self._path = path
        self._model = model
        self._fingerprint = fingerprint
        self._dimension = self.embed([""]).shape[1]

    @classmethod
    def load(cls, path: Path) -> "SentenceEmbedder":
        """Read a model directory; nothing is downloaded.

        Raises:
            ConfigError: If it is no directory of a model, or sentence-transformers is not
                installed.
        """
        if not (path / "modules.json").is_file():
            raise ConfigError(
                f"{path}: expected the directory of a sentence-transformers model, found no "
                "modules.json in it"
            )
        restrain_comet()  # transformers' Trainer, which comes with it, imports that
        library = import_extra("sentence_transformers", extra="embed")
        try:
            model = library.SentenceTransformer(str(path), local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"{path}: expected a sentence-transformers model, found {reason}"
            ) from error
        return cls(path, model, fingerprint_folder(path))

    @property
    def kind(self) -> EmbeddingKind:
        """Which embedding it is."""
        return "sentence-transformers"

    @property
    def path(self) -> Path:
        """The directory that it was read from."""
        return self._path

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of the directory's files, hexadecimal."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Numbers of an embedding."""
        return self._dimension

    def embed(self, texts: Sequence[str]) -> PointArray:
        """Return unit rows; the model reads the beginning of a text that is too long for it.

        The last digits may depend on the other texts in the batch.
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        rows = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(rows, dtype=np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes receive the path and load the model once, instead of with every task.
        return _load_sentence_transformer, (self._path.resolve(), self._fingerprint)


def fingerprint_folder(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a folder's files, hidden ones excluded.

    Raises:
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            digest.update(relative.as_posix().encode() + b"\0")
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


@functools.cache
def _load_sentence_transformer(path: Path, fingerprint: str) -> SentenceEmbedder:
    embedder = SentenceEmbedder.load(path)
    if embedder.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found {embedder.fingerprint}: "
            "the model has changed"
        )
    return embedder
