"""Trains a sentencepiece model on text."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from megadga.data.files import atomic_write
from megadga.data.manifest import MAX_VOCAB_SIZE
from megadga.errors import ConfigError
from megadga.prepare.reading.documents import iterate_documents
from megadga.prepare.reading.inputs import training_inputs
from megadga.prepare.reading.records import BadRecords
from megadga.prepare.tokenizers.sentence_piece import SentencePieceTokenizer

MAX_CHARACTERS = 100_000_000
LINE_CHARACTERS = 1000  # sentencepiece drops lines of more than 4192 bytes; a character takes 4
# Stored in the model, hence part of its fingerprint: never the number of this machine's cores.
NUM_THREADS = 8


def sample_texts(
    paths: Sequence[Path],
    *,
    text_key: str = "text",
    max_characters: int = MAX_CHARACTERS,
    bad: BadRecords | None = None,
) -> Iterator[str]:
    """Yield text from the beginning of each input, an equal amount of each.

    Args:
        paths: Files or folders of documents; those named after validation or test are skipped.
        text_key: Where the objects of JSON lines have their text.
        max_characters: Bound on the text of all inputs together: training holds it in memory.
        bad: Counts the bad records of what is read; None: the first is too many.

    Raises:
        ConfigError: If an input cannot be read, none is to train on, or too many records are bad.
    """
    bad = bad or BadRecords()
    kept = training_inputs(paths)
    for path in kept:
        remaining = max_characters // len(kept)
        for document in iterate_documents(path, text_key=text_key, bad=bad):
            yield document.text[:remaining]
            remaining -= len(document.text)
            if remaining <= 0:
                break
    bad.check_all()


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, prefix: Path
) -> SentencePieceTokenizer:
    """Train a byte-pair model, write it to ``PREFIX.model`` and load it.

    Text survives encoding and decoding unchanged, white space included, except that U+2581, which
    sentencepiece uses for the space, becomes one: nothing is normalised, digits are single pieces,
    and what is not in the vocabulary is spelt in bytes, so ``<unk>`` never occurs. Newlines are
    byte pieces. The same texts in the same order give the same file.

    Args:
        texts: Held in memory while training.
        vocab_size: Ids, the 256 bytes and 3 control pieces included.
        prefix: Path of the model without ``.model``; the folder is made.

    Raises:
        ConfigError: If there is no text, or ``vocab_size`` is too large or too small for it.
    """
    if not 1 <= vocab_size < MAX_VOCAB_SIZE:
        raise ConfigError(f"vocab_size: expected 1 <= N < 2^31, found {vocab_size}")
    # A list first: errors inside an iterator come out of the trainer as its own.
    lines = [piece for text in texts for piece in _pieces(text)]
    if not lines:
        raise ConfigError("texts: expected some text to train a tokenizer on, found none")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            num_threads=NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(_explain(str(error), vocab_size)) from error
    path = Path(f"{prefix}.model")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(model.getvalue())
    except OSError as error:
        raise ConfigError(f"{path}: expected to write it, found {error}") from error
    return SentencePieceTokenizer.load(path)


def _pieces(text: str) -> Iterator[str]:
    """Yield the non-empty lines of a text, with long ones split."""
    for line in text.split("\n"):
        for start in range(0, len(line), LINE_CHARACTERS):
            yield line[start : start + LINE_CHARACTERS]


def _explain(message: str, vocab_size: int) -> str:
    if most := re.search(r"Please set it to a value <= (\d+)", message):
        return (
            f"vocab_size: expected at most {most[1]}, which is all that this text has pieces for, "
            f"found {vocab_size}: give more text or a smaller vocab_size"
        )
    if least := re.search(r"smaller than required_chars\. \S+ vs (\d+)", message):
        return (
            f"vocab_size: expected at least {least[1]}, for bytes, control pieces and the "
            f"characters of this text, found {vocab_size}"
        )
    return (
        f"vocab_size: expected a size that sentencepiece can train, found {vocab_size}: {message}"
    )
