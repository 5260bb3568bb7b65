"""Writes small Hugging Face tokenizers, trained or put together by hand."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Model
from tokenizers.trainers import BpeTrainer

from tests.support.texts import made_up_texts

EOD = "<|endoftext|>"


def byte_level(model: Model, *, special: Sequence[str] = (EOD,)) -> Tokenizer:
    """A model over bytes, as GPT-2's."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def train_byte_level(
    path: Path, *, vocab_size: int = 400, special: Sequence[str] = (EOD,)
) -> Path:
    """Train one on made-up texts and write it."""
    tokenizer = byte_level(BPE(), special=())
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(made_up_texts(200), trainer)
    tokenizer.save(str(path))
    return path


def bytes_alone(path: Path, *, eod: int) -> Path:
    """Write one of 256 bytes and the id of EOD; ids between them are nobody's."""
    vocabulary = {byte: index for index, byte in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    byte_level(BPE({**vocabulary, EOD: eod}, [])).save(str(path))
    return path
