"""The tokenizer of an exported model: written, and compared with ours."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from megadga.data.files import atomic_write
from megadga.errors import ConfigError
from megadga.export.sentencepiece import SentencePieceModel, to_tokenizer
from megadga.prepare.extras import import_extra
from megadga.prepare.tokenizers.kept import KeptTokenizer
from megadga.prepare.tokenizers.loading import HUGGINGFACE_FILE
from megadga.prepare.tokenizers.round_trips import difficult_texts

SENTENCEPIECE_FILE = "tokenizer.model"
_SPELT_TEXTS = 1000
_SPELT_PIECES = 20
_SHOWN = 40
"""Characters of a text that is encoded differently, in an error."""


def write_tokenizer(tokenizer: KeptTokenizer, folder: Path, *, max_length: int) -> list[str]:
    """Write a tokenizer's files, and check that transformers encodes with them as we do.

    Text that spells a special token, as ``</s>``, is encoded to that token by transformers unless
    it is loaded with ``split_special_tokens=True``; in the shards it is ordinary text.

    Args:
        tokenizer: The tokenizer.
        folder: Where to.
        max_length: Tokens of a sequence that the model was trained on.

    Returns:
        Warnings, one line each.

    Raises:
        ConfigError: If it cannot be expressed as a ``tokenizer.json`` that encodes equally.
        OSError: If a file cannot be written.
    """
    content = tokenizer.file.read_bytes()
    warnings: list[str] = []
    model = None
    if tokenizer.ours.identity.kind == "sentencepiece":
        _write(folder / SENTENCEPIECE_FILE, content)
        model = SentencePieceModel.parse(content, tokenizer.file)
        library = to_tokenizer(model, tokenizer.file)
        content = library.to_str(pretty=True).encode()
        unknown = model.pieces[model.unknown()].text
    else:
        library = Library.from_buffer(content)
        unknown = None
        if _adds_around(library):
            library = _bare(library)
            content = library.to_str(pretty=True).encode()
            warnings.append(
                f"{HUGGINGFACE_FILE}: written without the padding, truncation and tokens around a "
                "text that the original sets, as the shards are built without them"
            )
    _write(folder / HUGGINGFACE_FILE, content)
    names = {"bos_token": tokenizer.eod, "eos_token": tokenizer.eod}
    names |= {} if unknown is None else {"unk_token": unknown}
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(index): {
                    "content": token.content,
                    "lstrip": token.lstrip,
                    "normalized": token.normalized,
                    "rstrip": token.rstrip,
                    "single_word": token.single_word,
                    "special": token.special,
                }
                for index, token in sorted(library.get_added_tokens_decoder().items())
            },
            **names,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    return warnings + _compare(tokenizer, folder, library, model)


def _adds_around(library: Library) -> bool:
    if library.padding is not None or library.truncation is not None:
        return True
    return bool(library.encode("").ids) or library.num_special_tokens_to_add(is_pair=False) > 0


def _bare(library: Library) -> Library:
    """Return the tokenizer without padding, truncation and what it puts around a text."""
    content = json.loads(library.to_str())
    content |= {"padding": None, "truncation": None, "post_processor": None}
    return Library.from_str(json.dumps(content))


def _compare(
    tokenizer: KeptTokenizer, folder: Path, library: Library, model: SentencePieceModel | None
) -> list[str]:
    """Encode a sample with both tokenizers; return warnings about equally good encodings."""
    transformers: Any = import_extra("transformers", extra="hf")
    theirs = transformers.AutoTokenizer.from_pretrained(
        str(folder), split_special_tokens=True, local_files_only=True
    )
    texts = [*_sample(library, model)]
    ties = 0
    for text, expected in zip(texts, tokenizer.ours.encode(texts), strict=True):
        found: list[int] = theirs(text, verbose=False)["input_ids"]
        if found == expected.tolist():
            continue
        if model is not None and model.is_tie(found, expected.tolist()):
            ties += 1
            continue
        settings = "" if model is None else f" ({model.describe()})"
        raise ConfigError(
            f"{tokenizer.file}: expected a tokenizer that Hugging Face's library can reproduce, "
            f"found {text[:_SHOWN]!a} encoded differently{settings}: --no-tokenizer exports the "
            "model without it"
        )
    if not ties:
        return []
    differently = f"{ties} of {len(texts)} sample texts are encoded differently"
    return [f"{HUGGINGFACE_FILE}: {differently}, to pieces equally probable"]


def _sample(library: Library, model: SentencePieceModel | None) -> Iterator[str]:
    """Yield texts that are difficult, and texts spelt by random pieces of the vocabulary."""
    if model is None:
        added = library.get_added_tokens_decoder()
        yield from difficult_texts([token.content for token in added.values()])
        plain = sorted(set(range(library.get_vocab_size())) - added.keys())
        pieces = [library.decode([index]) for index in plain]
    else:
        yield from difficult_texts(model.names())
        pieces = model.ordinary()
    draw = random.Random(0)
    for _ in range(_SPELT_TEXTS):
        yield "".join(draw.choices(pieces, k=_SPELT_PIECES))


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _write_json(path: Path, content: object) -> None:
    _write(path, f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode())
