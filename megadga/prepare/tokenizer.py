"""Tokenizers (sentencepiece, Hugging Face) behind one protocol, with round-trip checks."""

import functools
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, final

import numpy as np
from sentencepiece import SentencePieceProcessor

from megadga.arrays import IntArray, TokenArray
from megadga.data.indexed import best_dtype
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError


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


SPACE_SIGN = "\u2581"
"""Sentencepiece's symbol for the space; in text it is decoded as a space."""


_WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2002\u2009\u2028\u2029\u202f\u3000"


_INVISIBLE = "\0\1\x08\x1b\x7f\xad\u200b\u200c\u200d\u200e\u2060\ufe0f\ufeff"


# Each with and without composed characters; the last ones are composed differently from NFC.
_COMPOSED = (
    "é e\u0301 Å A\u030a ế e\u0302\u0301 각 \u1100\u1161\u11a8 が か\u3099 \u212b \u2126 \uf900"
)


_COMPATIBLE = "½ ² ① ﬁ Ａ １ ｶ ㎏ ™ … ſ ℌ ﷺ \u2f00 \u0132 \u01c4"


_SCRIPTS = (
    "ß ẞ İ ı ς Ω Привет 中文 日本語 한국어 שלום العربية ٣ हिन्दी ไทย 🙂 👩\u200d👧 🇩🇪 "
    "\ue000 \ufffd \U0010ffff"
)


_PUNCTUATION = "“a” ‘b’ «c» – — ‐ − ″ ‚ ` ``d'' \\n <0x0A> &amp; %20"


_TEXTS = (
    f"A  b\n\n\tc   d {''.join(map(chr, range(33, 127)))} é 中文 🙂.",
    *(f"a{sign}b {sign} c {sign * 2}d" for sign in _WHITE_SPACE),
    *(f"a{sign}b {sign} c" for sign in _INVISIBLE),
    "def f():\n    if x:\n        return  1\n\n\n\tpass\r\n\r\n  end",
    *(f"{space}a b{space}" for space in (" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ")),
    *(" a", "a ", "\na", "a\n", " ", "   ", "\n", "\n\n", "\t", "\r\n", "a", "A", "é", " .", ". "),
    *_COMPOSED.split(" "),
    *_COMPATIBLE.split(" "),
    *(_COMPOSED, _COMPATIBLE, _SCRIPTS, _PUNCTUATION),
)


_SHOWN = 12
"""Characters of a difference shown in an error, preceded by half as many."""


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


def _located(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> LocatedTokens:
    bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    return LocatedTokens(np.array(ids, dtype=np.int64), bounds[:, 0], bounds[:, 1])


class Coder(Protocol):
    """Text to token ids and back."""

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text."""
        ...

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids."""
        ...


def check_round_trips(path: Path, coder: Coder, *, names: Iterable[str]) -> None:
    """Check that a tokenizer preserves text in a round trip.

    Canonical composition (NFC) is accepted, as the result is canonically equivalent. Documents
    that it changes are found by ``find_change``.

    Args:
        path: The tokenizer's file, for the error.
        coder: The tokenizer.
        names: Tokens that text may spell: special, control, added and user-defined ones.

    Raises:
        ConfigError: If text comes back changed.
    """
    texts = [*_TEXTS, *_around(names)]
    for text, tokens in zip(texts, coder.encode(texts), strict=True):
        decoded = coder.decode(tokens)
        if _is_same(text, decoded) or _is_same(unicodedata.normalize("NFC", text), decoded):
            continue
        raise ConfigError(
            f"{path}: expected text to be unchanged by a round trip, {_show_change(text, decoded)}"
        )


def find_change(coder: Coder, text: str, tokens: TokenArray) -> str | None:
    """Return a description of how a round trip changes a text, None if it does not.

    U+2581 may be decoded as a space.

    Args:
        coder: The tokenizer.
        text: What was encoded.
        tokens: Its ids, without EOD, shape ``(n,)``.
    """
    decoded = coder.decode(tokens)
    return None if _is_same(text, decoded) else _show_change(text, decoded)


def _around(names: Iterable[str]) -> Iterator[str]:
    """Yield texts that have each name between spaces, newlines and letters, and alone."""
    for name in names:
        spelt = name.replace(SPACE_SIGN, " ")
        yield f"a  {spelt}  b\n\n{spelt}\n\n    c{spelt}d {spelt}\t{spelt}"
        yield f"  {spelt}  "


def _is_same(text: str, decoded: str) -> bool:
    return decoded in (text, text.replace(SPACE_SIGN, " "))


def _show_change(text: str, decoded: str) -> str:
    pairs = enumerate(zip(text, decoded, strict=False))
    shortest = min(len(text), len(decoded))
    start = next((index for index, (one, other) in pairs if one != other), shortest)
    cut = slice(max(start - _SHOWN // 2, 0), start + _SHOWN)
    # Escaped to ASCII, as differing characters may look alike or be invisible.
    return f"{text[cut]!a}, found {decoded[cut]!a}"


NUM_BYTES = 256


@final
class SentencePieceTokenizer:
    """A sentencepiece model. Created by ``load``.

    EOD is a control piece: no text, not even one that spells its name, is ever encoded to it.
    """

    def __init__(
        self, path: Path, processor: SentencePieceProcessor, *, fingerprint: str, eod: int
    ) -> None:
        self.path = path
        self._processor = processor
        self._identity = TokenizerIdentity(
            kind="sentencepiece",
            fingerprint=fingerprint,
            vocab_size=processor.vocab_size(),
            eod=eod,
        )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        eod: str | None = None,
        fingerprint: str | None = None,
        encodes: bool = True,
    ) -> "SentencePieceTokenizer":
        """Read a ``.model`` file.

        Args:
            path: The file.
            eod: Name of the control piece that ends documents; None: the model's own, ``</s>``.
            fingerprint: What the file's SHA-256 must be, in which case it has been checked
                already; None: anything.
            encodes: Whether text will be encoded, which requires a lossless round trip.

        Raises:
            ConfigError: If it is missing, no sentencepiece model or another one, if it has no
                such control piece, or if some text would become ``<unk>`` for want of byte pieces
                or come back changed.
        """
        content, found = read_tokenizer_file(path, fingerprint=fingerprint)
        processor = SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ConfigError(f"{path}: expected a sentencepiece model, found {error}") from error
        tokenizer = cls(path, processor, fingerprint=found, eod=_find_eod(path, processor, eod))
        if encodes and fingerprint is None:
            _check_spells_everything(path, processor)
            check_round_trips(path, tokenizer, names=_named_pieces(processor))
        return tokenizer

    @property
    def identity(self) -> TokenizerIdentity:
        """What the manifest says of it: fingerprint, vocabulary size and EOD."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the ids of each text, without EOD, in the smallest type that holds them all."""
        dtype = best_dtype(self._identity.vocab_size)
        encoded = self._processor.encode(list(texts), return_type="numpy", num_threads=1)
        return [ids.astype(dtype) for ids in encoded]

    def decode(self, tokens: TokenArray) -> str:
        """Return the text of some ids; EOD and other control pieces have none."""
        return self._processor.decode(tokens.tolist())

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The control pieces and the unknown one, by name."""
        return self._special_tokens

    @functools.cached_property
    def _special_tokens(self) -> Mapping[str, int]:
        processor = self._processor
        return {
            processor.id_to_piece(piece): piece
            for piece in range(processor.vocab_size())
            if processor.is_control(piece) or processor.is_unknown(piece)
        }

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """Names of control pieces by what chat templates call them."""
        processor = self._processor
        pieces = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id()}
        return {key: processor.id_to_piece(piece) for key, piece in pieces.items() if piece >= 0}

    def locate(self, text: str) -> LocatedTokens:
        """Return the tokens of a text in which names of control pieces are these pieces."""
        special = self._special_tokens
        names = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for part in re.split(f"({names})", text):
            if part in special:
                ids.append(special[part])
                offsets.append((start, start + len(part)))
            else:
                found: Any = self._processor.encode(part, return_type="offset_mapping")
                ids += found["ids"]
                offsets += [(start + begin, start + end) for begin, end in found["offsets"]]
            start += len(part)
        return _located(ids, offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes receive the path and load the model once, instead of with every task.
        eod = self._processor.id_to_piece(self._identity.eod)
        return _load_sentencepiece, (self.path.resolve(), eod, self._identity.fingerprint)


@functools.cache
def _load_sentencepiece(path: Path, eod: str, fingerprint: str) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.load(path, eod=eod, fingerprint=fingerprint)


def _check_spells_everything(path: Path, processor: SentencePieceProcessor) -> None:
    num_bytes = sum(processor.is_byte(list(range(processor.vocab_size()))))
    if num_bytes != NUM_BYTES:
        raise ConfigError(
            f"{path}: expected {NUM_BYTES} byte pieces (byte_fallback), found {num_bytes}: "
            "unknown characters would become <unk>"
        )


def _find_eod(path: Path, processor: SentencePieceProcessor, name: str | None) -> int:
    if name is None:
        if processor.eos_id() < 0:
            raise ConfigError(f"{path}: expected a piece </s> to end documents, found none")
        return processor.eos_id()
    piece = processor.piece_to_id(name)  # <unk> if there is no such piece
    if not processor.is_control(piece):
        found = "an ordinary piece" if processor.id_to_piece(piece) == name else "no such piece"
        raise ConfigError(
            f"{path}: eod: expected the name of a control piece to end documents, "
            f"found {name!r}, {found}"
        )
    return piece


def _named_pieces(processor: SentencePieceProcessor) -> Iterator[str]:
    """Yield the control and the user-defined pieces, and perhaps a few others.

    The library does not say which ones are user-defined; but those it gives the score 0.
    """
    for piece in range(processor.vocab_size()):
        if processor.get_score(piece) == 0.0 and not processor.is_byte(piece):
            yield processor.id_to_piece(piece)


try:
    from tokenizers import Tokenizer as Library
    from tokenizers.pre_tokenizers import ByteLevel
except ModuleNotFoundError as error:
    raise ConfigError(
        "tokenizers: expected it to be installed, found none: pip install 'megadga[data]'"
    ) from error


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
        tokenizer = cls(
            path, library, fingerprint=found, eod=_find_huggingface_eod(path, special, eod)
        )
        if encodes and fingerprint is None:
            _check_huggingface_spells_everything(path, library)
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
        return _located(encoded.ids, encoded.offsets)

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
        return _load_huggingface, (self.path.resolve(), eod, self._identity.fingerprint)


@functools.cache
def _load_huggingface(path: Path, eod: str, fingerprint: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.load(path, eod=eod, fingerprint=fingerprint)


def _special_tokens(library: Library) -> dict[str, int]:
    added = library.get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if token.special}


def _find_huggingface_eod(path: Path, special: Mapping[str, int], name: str | None) -> int:
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


def _check_huggingface_spells_everything(path: Path, library: Library) -> None:
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


HUGGINGFACE_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """Text to token ids and back; it must also be picklable, for worker processes.

    No text, not even one that spells a control token, is ever encoded to one, and none is lost.
    """

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


class MarkupTokenizer(Tokenizer, Protocol):
    """A tokenizer for rendered dialogues, too, in which special tokens are spelt by name."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the special tokens, by name."""
        ...

    def locate(self, text: str) -> LocatedTokens:
        """Return the tokens of a text in which names of special tokens are these tokens."""
        ...


def load_tokenizer(path: Path, *, eod: str | None = None, encodes: bool = True) -> MarkupTokenizer:
    """Read a tokenizer of whatever kind.

    Args:
        path: A sentencepiece ``.model``, a Hugging Face ``.json``, or a folder that holds
            ``tokenizer.json``.
        eod: Name of the control token that ends documents; None: ``</s>`` of sentencepiece, the
            only well-known one that a Hugging Face tokenizer has.
        encodes: Whether text will be encoded, which requires a lossless round trip; what others
            have written with a tokenizer that loses some can still be read.

    Raises:
        ConfigError: If it is missing or not what its name says, if ``eod`` is missing, ambiguous
            or no control token, or if some text would be lost, changed or encoded to control
            tokens.
    """
    file = path / HUGGINGFACE_FILE if path.is_dir() else path
    match file.suffix:
        case ".model":
            return SentencePieceTokenizer.load(file, eod=eod, encodes=encodes)
        case ".json":
            # Where its library is missing, everything else still works.
            from megadga.prepare.tokenizer import HuggingFaceTokenizer  # noqa: PLC0415

            return HuggingFaceTokenizer.load(file, eod=eod, encodes=encodes)
        case suffix:
            raise ConfigError(
                f"{path}: expected a sentencepiece .model, a Hugging Face .json or a folder with "
                f"{HUGGINGFACE_FILE}, found {suffix or 'a name without a suffix'}"
            )
