"""What preparation needs of a tokenizer, and how one is loaded. Knows no documents, no shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from megadga.arrays import TokenArray
from megadga.errors import ConfigError
from megadga.prepare.sentencepiece_tokenizer import SentencePieceTokenizer
from megadga.shards.manifest import TokenizerIdentity

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


def load_tokenizer(path: Path, *, eod: str | None = None, encodes: bool = True) -> Tokenizer:
    """Read a tokenizer of whatever kind.

    Args:
        path: A sentencepiece ``.model``, a Hugging Face ``.json``, or a folder that holds
            ``tokenizer.json``.
        eod: Name of the control token that ends documents; None: ``</s>`` of sentencepiece, the
            only well-known one that a Hugging Face tokenizer has.
        encodes: Whether text will be encoded, and so must not be lost; what others have written
            with a tokenizer that loses some can still be read.

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
            from megadga.prepare.huggingface_tokenizer import HuggingFaceTokenizer  # noqa: PLC0415

            return HuggingFaceTokenizer.load(file, eod=eod, encodes=encodes)
        case suffix:
            raise ConfigError(
                f"{path}: expected a sentencepiece .model, a Hugging Face .json or a folder with "
                f"{HUGGINGFACE_FILE}, found {suffix or 'a name without a suffix'}"
            )
