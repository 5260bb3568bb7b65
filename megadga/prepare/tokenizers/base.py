"""Protocols of tokenizers, and what their implementations share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError

NUM_BYTES = 256
"""Values of a byte: a vocabulary with all of them can spell any text."""


class Tokenizer(Protocol):
    """Text to token ids and back; it must also be picklable, for worker processes.

    No text, not even one that spells a control token, is ever encoded to one, and none is lost.
    """

    @property
    def path(self) -> Path:
        """Its file."""
        ...

    @property
    def identity(self) -> TokenizerIdentity:
        """What the manifest says of it."""
        ...

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without EOD, in the smallest type that holds them all.

        Each is of shape ``(n,)``.
        """
        ...

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; EOD and other control tokens have none."""
        ...


@dataclass(frozen=True, eq=False)
class LocatedTokens:
    """Tokens of a text, and where they are in it.

    Attributes:
        ids: Token ids, shape ``(n,)``.
        begins: First character of each, shape ``(n,)``. Several may share a character, if it is
            spelt in bytes.
        ends: The character after the last of each, shape ``(n,)``.
    """

    ids: IntArray
    begins: IntArray
    ends: IntArray


class MarkupTokenizer(Tokenizer, Protocol):
    """A tokenizer for rendered dialogues, too, in which special tokens are spelt by name."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the special tokens, by name."""
        ...

    def locate(self, text: str) -> LocatedTokens:
        """Return the tokens of a text in which names of special tokens are these tokens."""
        ...


def locate_tokens(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> LocatedTokens:
    """Return the tokens with ids, and the first character and the one after the last of each."""
    bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    return LocatedTokens(np.array(ids, dtype=np.int64), bounds[:, 0], bounds[:, 1])


def read_tokenizer_file(path: Path, *, fingerprint: str | None = None) -> tuple[bytes, str]:
    """Return what a tokenizer's file holds, and its fingerprint: SHA-256 as hex digits.

    Args:
        path: The file.
        fingerprint: What it must be; None: anything.

    Raises:
        ConfigError: If the file cannot be read, or has another fingerprint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a tokenizer, found {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if fingerprint is not None and found != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found {found}: the file has changed"
        )
    return content, found
