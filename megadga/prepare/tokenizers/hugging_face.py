"""Tokenizers of Hugging Face; imports their library, an extra."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers.pre_tokenizers import ByteLevel

from megadga.arrays import TokenArray
from megadga.data.indexed import best_dtype
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError
from megadga.prepare.tokenizers.base import (
    NUM_BYTES,
    LocatedTokens,
    locate_tokens,
    read_tokenizer_file,
)
from megadga.prepare.tokenizers.round_trips import check_round_trips

WELL_KNOWN_EODS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
)


MAX_LISTED = 10
"""Tokens that an error lists."""


@final
class HuggingFaceTokenizer:
    """A Hugging Face ``tokenizer.json``. Created by ``load``.

    The file's settings for padding, truncation and the tokens around a model's input are left
    out. A normaliser that composes characters (NFC) does so; one that does more is refused.
    """

    def __init__(self, path: Path, library: Library, *, fingerprint: str, eod: int) -> None:
        self.path = path
        self._library = library
        # Ids may leave gaps, and those of special tokens may lie beyond the model's own.
        vocab_size = max(library.get_vocab(with_added_tokens=True).values()) + 1
        self._identity = TokenizerIdentity(
            kind="huggingface", fingerprint=fingerprint, vocab_size=vocab_size, eod=eod
        )
        self._is_special = np.zeros(vocab_size, dtype=np.bool_)
        self._is_special[list(_special_tokens(library).values())] = True

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        eod: str | None = None,
        fingerprint: str | None = None,
        encodes: bool = True,
    ) -> "HuggingFaceTokenizer":
        """Read a ``tokenizer.json``, whatever its name.

        Args:
            path: The file.
            eod: Name of the special token that ends documents; None: the only one of
                ``WELL_KNOWN_EODS`` that it has.
            fingerprint: What the file's SHA-256 must be, in which case it has been checked
                already; None: anything.
            encodes: Whether text will be encoded, which requires a lossless round trip.

        Raises:
            ConfigError: If it is missing, no tokenizer or another one, if ``eod`` is missing,
                ambiguous or not special, or if some text would be lost, changed or encoded to
                special tokens.
        """
        content, found = read_tokenizer_file(path, fingerprint=fingerprint)
        try:
            library = Library.from_buffer(content)
        except ValueError as error:
            raise ConfigError(
                f"{path}: expected a Hugging Face tokenizer, found {error}"
            ) from error
        # Read by the library with every batch. Its threads gain nothing beside one worker per
        # core.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True  # as the text that they are
        special = _special_tokens(library)
        tokenizer = cls(path, library, fingerprint=found, eod=_find_eod(path, special, eod))
        if encodes and fingerprint is None:
            _check_spells_everything(path, library)
            added = library.get_added_tokens_decoder().values()
            check_round_trips(path, tokenizer, names=[token.content for token in added])
        return tokenizer

    @property
    def identity(self) -> TokenizerIdentity:
        """What the manifest says of it: fingerprint, all ids there are, and EOD."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without EOD, in the smallest type that holds them all.

        Raises:
            ConfigError: If a text was encoded to a special token.
        """
        dtype = best_dtype(self._identity.vocab_size)
        encoded = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        arrays = [np.array(one.ids, dtype=dtype) for one in encoded]
        for ids in arrays:
            special = ids[self._is_special[ids]]
            if special.size:
                name = self._library.id_to_token(int(special[0]))
                raise ConfigError(
                    f"{self.path}: expected text to become ordinary tokens, "
                    f"found the special token {name!r}"
                )
        return arrays

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; EOD and other special tokens have none."""
        return self._library.decode(tokens.tolist(), skip_special_tokens=True)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The special tokens, by name."""
        return _special_tokens(self._library)

    def locate(self, text: str) -> LocatedTokens:
        """Return the tokens of a text in which names of special tokens are these tokens."""
        encoded = self._markup.encode(text, add_special_tokens=False)
        return locate_tokens(encoded.ids, encoded.offsets)

    @functools.cached_property
    def _markup(self) -> Library:
        """The same tokenizer for text with special tokens.

        Its post-processor is left out: it adds nothing here, but may cut spaces off the offsets.
        """
        parts = json.loads(self._library.to_str())
        return Library.from_str(json.dumps({**parts, "post_processor": None}))

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes receive the path and load the file once, instead of with every task.
        eod = self._library.id_to_token(self._identity.eod)
        return _load, (self.path.resolve(), eod, self._identity.fingerprint)


@functools.cache
def _load(path: Path, eod: str, fingerprint: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.load(path, eod=eod, fingerprint=fingerprint)


def _special_tokens(library: Library) -> dict[str, int]:
    added = library.get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if token.special}


def _find_eod(path: Path, special: Mapping[str, int], name: str | None) -> int:
    if name is None:
        known = [token for token in WELL_KNOWN_EODS if token in special]
        if len(known) == 1:
            return special[known[0]]
        raise ConfigError(
            f"{path}: eod: expected exactly one of {', '.join(WELL_KNOWN_EODS)}, found "
            f"{', '.join(known) or 'none'}: name the special token that ends documents, one of "
            f"{_listed(special)}"
        )
    if name not in special:
        raise ConfigError(
            f"{path}: eod: expected the name of a special token to end documents, one of "
            f"{_listed(special)}, found {name!r}"
        )
    return special[name]


def _listed(special: Mapping[str, int]) -> str:
    rest = len(special) - MAX_LISTED
    names = ", ".join(list(special)[:MAX_LISTED]) or "none that it has"
    return f"{names} and {rest} more" if rest > 0 else names


def _check_spells_everything(path: Path, library: Library) -> None:
    """Check that what is not in the vocabulary is spelt in bytes, each of which is in it.

    The library drops what it cannot spell, or makes it the unknown token, silently.
    """
    parts = json.loads(library.to_str())
    model = parts["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise ConfigError(
            f"{path}: model.type: expected BPE or Unigram, which can spell any text in bytes, "
            f"found {model['type']}"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise ConfigError(f"{path}: model.{key}: expected none, found {model[key]!r}")
    if "ByteLevel" in _types((parts["normalizer"], parts["pre_tokenizer"])):
        spelling = set(ByteLevel.alphabet())
    elif model["byte_fallback"]:
        spelling = {f"<0x{byte:02X}>" for byte in range(NUM_BYTES)}
    else:
        raise ConfigError(
            f"{path}: expected a byte-level tokenizer or one with byte_fallback, found neither: "
            "unknown characters would be lost"
        )
    num_bytes = len(spelling & library.get_vocab(with_added_tokens=False).keys())
    if num_bytes != NUM_BYTES:
        raise ConfigError(
            f"{path}: expected all {NUM_BYTES} bytes in the vocabulary, found {num_bytes}: "
            "unknown characters would be lost"
        )


def _types(part: object) -> Iterator[str]:
    """Yield the type of a part of a tokenizer, and of every part inside it."""
    if isinstance(part, Mapping):
        fields = cast("Mapping[str, object]", part)
        if isinstance(kind := fields.get("type"), str):
            yield kind
        part = tuple(fields.values())
    if isinstance(part, list | tuple):
        for inner in cast("Sequence[object]", part):
            yield from _types(inner)
