"""Text to token ids and back: sentencepiece behind a protocol. Knows no documents, no shards.

End of document (EOD) is the model's ``</s>``. It is a control piece: no text, not even one that
spells ``</s>``, is ever encoded to it.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sentencepiece import SentencePieceProcessor

from megadga.arrays import TokenArray
from megadga.errors import ConfigError
from megadga.shards.manifest import TokenizerIdentity
from megadga.shards.writer import best_dtype

NUM_BYTES = 256


class Tokenizer(Protocol):
    """What preparation needs of a tokenizer; it must also be picklable, for worker processes."""

    @property
    def identity(self) -> TokenizerIdentity:
        """What the manifest says of it."""
        ...

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without EOD, each of shape ``(n,)``."""
        ...

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; EOD and other control pieces have none."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece model in memory. Made by ``load``."""

    def __init__(self, path: Path, processor: SentencePieceProcessor, fingerprint: str) -> None:
        self.path = path
        self._processor = processor
        self._identity = TokenizerIdentity(
            kind="sentencepiece",
            fingerprint=fingerprint,
            vocab_size=processor.vocab_size(),
            eod=processor.eos_id(),
        )

    @classmethod
    def load(cls, path: Path) -> "SentencePieceTokenizer":
        """Read a ``.model`` file.

        Raises:
            ConfigError: If it is missing or no sentencepiece model, if it has no ``</s>``, or if
                some text would become ``<unk>`` for want of byte pieces.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: expected a tokenizer, found {error.strerror}") from error
        processor = SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ConfigError(f"{path}: expected a sentencepiece model, found {error}") from error
        if processor.eos_id() < 0:
            raise ConfigError(f"{path}: expected a piece </s> to end documents, found none")
        num_bytes = sum(processor.is_byte(list(range(processor.vocab_size()))))
        if num_bytes != NUM_BYTES:
            raise ConfigError(
                f"{path}: expected {NUM_BYTES} byte pieces (byte_fallback), found {num_bytes}: "
                "unknown characters would become <unk>"
            )
        return cls(path, processor, hashlib.sha256(content).hexdigest())

    @property
    def identity(self) -> TokenizerIdentity:
        """What the manifest says of it: fingerprint, vocabulary size and EOD."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without EOD, in the smallest type that holds them all."""
        dtype = best_dtype(self._identity.vocab_size)
        encoded = self._processor.encode(list(texts), out_type=int, num_threads=1)
        return [np.array(ids, dtype=dtype) for ids in encoded]

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; EOD and other control pieces have none."""
        return self._processor.decode(tokens.tolist())

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get the path and read the model once, not with every piece of work.
        return _load_once, (self.path.resolve(), self._identity.fingerprint)


@functools.cache
def _load_once(path: Path, fingerprint: str) -> SentencePieceTokenizer:
    tokenizer = SentencePieceTokenizer.load(path)
    if tokenizer.identity.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found "
            f"{tokenizer.identity.fingerprint}: the file has changed"
        )
    return tokenizer
