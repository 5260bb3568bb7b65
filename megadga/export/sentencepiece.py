"""A sentencepiece model as a ``tokenizer.json`` of Hugging Face's ``tokenizers``.

The model's settings are read from its file (``sentencepiece_model.proto``) without a library for
protobuf, which transformers' converters need. Those for Llama also assume Llama 2's settings, and
let text be merged to control and byte pieces.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from megadga.errors import ConfigError

SPACE = "\u2581"
_FORBIDDEN_SCORE = -1e6
"""Score of pieces that text must not become; far below all others, which are logarithms."""


class _Kind(IntEnum):
    """Kinds of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_UNIGRAM, _BPE = 1, 2
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The contents of a sentencepiece model.

    Attributes:
        pieces: All pieces, by id.
        model_type: Number of the algorithm, of ``TrainerSpec.ModelType``.
        charsmap: Normalisation rules, compiled; empty for the identity.
        add_dummy_prefix: Whether a space is put before a text.
        remove_extra_whitespaces: Whether spaces are stripped and repeated ones become one.
        whitespace_as_suffix: Whether a space belongs to the word before it.
    """

    pieces: Sequence[_Piece]
    model_type: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    whitespace_as_suffix: bool

    @classmethod
    def parse(cls, content: bytes, path: Path) -> "SentencePieceModel":
        """Parse a model's file.

        Raises:
            ConfigError: If it is none.
        """
        try:
            fields = [*_fields(content)]
            trainer = _message(fields, 2)
            normalizer = _message(fields, 3)
            return cls(
                pieces=tuple(_piece(value) for number, value in fields if number == 1),
                model_type=trainer.get(3, _UNIGRAM),
                charsmap=normalizer.get(2, b""),
                add_dummy_prefix=bool(normalizer.get(3, True)),
                remove_extra_whitespaces=bool(normalizer.get(4, True)),
                whitespace_as_suffix=bool(trainer.get(24, False)),
            )
        except (ValueError, IndexError, TypeError) as error:
            raise ConfigError(f"{path}: expected a sentencepiece model, found {error}") from error

    def names(self) -> list[str]:
        """Return the control and user-defined pieces, and the unknown one."""
        kinds = (_Kind.CONTROL, _Kind.USER_DEFINED, _Kind.UNKNOWN)
        return [piece.text for piece in self.pieces if piece.kind in kinds]

    def ordinary(self) -> list[str]:
        """Return the text of the pieces that text is made of."""
        kinds = (_Kind.NORMAL, _Kind.USER_DEFINED)
        return [p.text.replace(SPACE, " ") for p in self.pieces if p.kind in kinds]

    def is_tie(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Return whether two encodings of a text are equally probable, so that either is right."""
        if self.model_type != _UNIGRAM:
            return False
        scores = [sum(self.pieces[index].score for index in ids) for ids in (one, other)]
        return math.isclose(*scores, rel_tol=1e-6)  # sentencepiece adds in single precision

    def unknown(self) -> int:
        """Return the id of ``<unk>``."""
        return next(i for i, piece in enumerate(self.pieces) if piece.kind == _Kind.UNKNOWN)

    def describe(self) -> str:
        """Return the settings that may keep another library from encoding equally."""
        settings: Mapping[str, object] = {
            "model_type": _MODEL_TYPES.get(self.model_type, self.model_type),
            "normalization": "its own rules" if self.charsmap else "identity",
            "add_dummy_prefix": self.add_dummy_prefix,
            "remove_extra_whitespaces": self.remove_extra_whitespaces,
            "treat_whitespace_as_suffix": self.whitespace_as_suffix,
            "unused pieces": sum(piece.kind == _Kind.UNUSED for piece in self.pieces),
            "user-defined pieces": sum(p.kind == _Kind.USER_DEFINED for p in self.pieces),
        }
        return ", ".join(f"{name}: {value}" for name, value in settings.items())


def to_tokenizer(model: SentencePieceModel, path: Path) -> Tokenizer:
    """Return a tokenizer that should encode as the model does; ids are those of the pieces.

    Args:
        model: The model.
        path: Its file, for errors.

    Raises:
        ConfigError: If it is of a type that the other library lacks.
    """
    tokenizer = Tokenizer(_algorithm(model, path))
    tokenizer.normalizer = normalizers.Sequence([*_normalizers(model)])
    inner: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        inner.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(inner)
    for piece in model.pieces:
        if piece.kind == _Kind.CONTROL:
            tokenizer.add_special_tokens([AddedToken(piece.text, normalized=False, special=True)])
        elif piece.kind == _Kind.USER_DEFINED and " " not in piece.text:
            # Looked for after spaces are replaced; sentencepiece finds none with a space.
            tokenizer.add_tokens([AddedToken(piece.text, normalized=True, special=False)])
    return tokenizer


def _algorithm(model: SentencePieceModel, path: Path) -> BPE | Unigram:
    if model.whitespace_as_suffix:
        raise _unsupported(path, "treat_whitespace_as_suffix", "false", "true")
    unknown = model.unknown()
    if model.model_type == _BPE:
        return BPE(
            vocab={piece.text: index for index, piece in enumerate(model.pieces)},
            merges=_merges(model.pieces),
            unk_token=model.pieces[unknown].text,
            fuse_unk=True,
            byte_fallback=True,
        )
    if model.model_type == _UNIGRAM:
        usable = (_Kind.NORMAL, _Kind.USER_DEFINED)
        scores = [p.score if p.kind in usable else _FORBIDDEN_SCORE for p in model.pieces]
        vocabulary = [(p.text, score) for p, score in zip(model.pieces, scores, strict=True)]
        return Unigram(vocabulary, unk_id=unknown, byte_fallback=True)
    found = _MODEL_TYPES.get(model.model_type, str(model.model_type))
    raise _unsupported(path, "model_type", "bpe or unigram", found)


def _unsupported(path: Path, setting: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        f"{path}: {setting}: expected {expected}, which a tokenizer.json can express, "
        f"found {found}: --no-tokenizer exports the model without it"
    )


def _merges(pieces: Sequence[_Piece]) -> list[tuple[str, str]]:
    """Return all pairs of pieces whose concatenation is a piece, the best first."""
    usable = {
        piece.text: index
        for index, piece in enumerate(pieces)
        if piece.kind in (_Kind.NORMAL, _Kind.UNUSED)
    }
    merges = [
        (-pieces[index].score, usable[text[:cut]], usable[text[cut:]])
        for text, index in usable.items()
        for cut in range(1, len(text))
        if text[:cut] in usable and text[cut:] in usable
    ]
    return [(pieces[left].text, pieces[right].text) for _, left, right in sorted(merges)]


def _normalizers(model: SentencePieceModel) -> Iterator[Any]:
    if model.charsmap:
        yield normalizers.Precompiled(model.charsmap)
    if model.remove_extra_whitespaces:
        yield normalizers.Strip()
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if model.add_dummy_prefix:
        yield normalizers.Prepend(SPACE)
    yield normalizers.Replace(" ", SPACE)


def _piece(message: bytes) -> _Piece:
    fields = dict(_fields(message))
    return _Piece(fields[1].decode(), fields.get(2, 0.0), fields.get(3, _Kind.NORMAL))


def _message(fields: Sequence[tuple[int, Any]], wanted: int) -> dict[int, Any]:
    """Return the fields of an inner message, the last of each number; empty if there is none."""
    return {
        number: value
        for field, message in fields
        if field == wanted
        for number, value in _fields(message)
    }


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number and value of each field of a message in protobuf's wire format.

    Raises:
        ValueError: If it is none.
        IndexError: If it is cut.
    """
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        tag = number()
        match tag & 7:
            case 0:
                yield tag >> 3, number()
            case 2:
                size = number()
                if place + size > len(message):
                    raise IndexError("a message that is cut")
                place += size
                yield tag >> 3, message[place - size : place]
            case 1 | 5 as wire:
                size = 8 if wire == 1 else 4
                raw = message[place : place + size]
                place += size
                yield tag >> 3, struct.unpack("<d" if wire == 1 else "<f", raw)[0]
            case wire:
                raise ValueError(f"a field of wire type {wire}")
