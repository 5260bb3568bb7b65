"""A sentence-transformers model as an embedding. Knows neither domains nor clusters."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import EmbeddingKind, PointArray, unit_rows
from megadga.prepare.extras import import_extra


@final
class SentenceEmbedder:
    """A model in memory. Made by ``load``."""

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

        The last digits may depend on the texts that are embedded together.
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        rows = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(rows, dtype=np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get the path and read the model once, not with every piece of work.
        return _load_once, (self._path.resolve(), self._fingerprint)


def fingerprint_folder(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a folder's files, hidden ones aside.

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
def _load_once(path: Path, fingerprint: str) -> SentenceEmbedder:
    embedder = SentenceEmbedder.load(path)
    if embedder.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found {embedder.fingerprint}: "
            "the model has changed"
        )
    return embedder
