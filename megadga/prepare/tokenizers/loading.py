"""Reads a tokenizer of whatever kind."""

from pathlib import Path

from megadga.errors import ConfigError
from megadga.prepare.extras import import_extra
from megadga.prepare.tokenizers.base import MarkupTokenizer
from megadga.prepare.tokenizers.sentence_piece import SentencePieceTokenizer

HUGGINGFACE_FILE = "tokenizer.json"
"""Name of the file in a Hugging Face folder."""


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
            import_extra("tokenizers", extra="data")
            from megadga.prepare.tokenizers.hugging_face import (  # noqa: PLC0415  (an extra)
                HuggingFaceTokenizer,
            )

            return HuggingFaceTokenizer.load(file, eod=eod, encodes=encodes)
        case suffix:
            raise ConfigError(
                f"{path}: expected a sentencepiece .model, a Hugging Face .json or a folder with "
                f"{HUGGINGFACE_FILE}, found {suffix or 'a name without a suffix'}"
            )
