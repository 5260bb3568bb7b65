"""Tokenizers of sentencepiece."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from sentencepiece import SentencePieceProcessor

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
        return locate_tokens(ids, offsets)

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
