"""The tokenizers that sentencepiece trains. Knows no documents, no shards."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from sentencepiece import SentencePieceProcessor

from megadga.arrays import TokenArray
from megadga.errors import ConfigError
from megadga.prepare.round_trips import check_round_trips
from megadga.prepare.tokenizer_file import read_tokenizer_file
from megadga.shards.manifest import TokenizerIdentity
from megadga.shards.writer import best_dtype

NUM_BYTES = 256


@final
class SentencePieceTokenizer:
    """A sentencepiece model in memory. Made by ``load``.

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
            encodes: Whether text will be encoded, and so must not be lost.

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

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get the path and read the model once, not with every piece of work.
        eod = self._processor.id_to_piece(self._identity.eod)
        return _load_once, (self.path.resolve(), eod, self._identity.fingerprint)


@functools.cache
def _load_once(path: Path, eod: str, fingerprint: str) -> SentencePieceTokenizer:
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
