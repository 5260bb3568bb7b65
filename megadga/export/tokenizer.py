"""The tokenizer of an exported model: found by fingerprint, written, compared with ours."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as Library

from megadga.config.run import RunConfig
from megadga.data.files import atomic_write
from megadga.errors import ConfigError
from megadga.export.sentencepiece import SentencePieceModel, to_tokenizer
from megadga.prepare.extras import import_extra
from megadga.prepare.reading.splits import TOKENIZER_SUFFIXES, kept_tokenizer_path
from megadga.prepare.tokenizers.base import Tokenizer, read_tokenizer_file
from megadga.prepare.tokenizers.loading import HUGGINGFACE_FILE, load_tokenizer
from megadga.prepare.tokenizers.round_trips import difficult_texts

SENTENCEPIECE_FILE = "tokenizer.model"
_SPELT_TEXTS = 1000
_SPELT_PIECES = 20
_SHOWN = 40
"""Characters of a text that is encoded differently, in an error."""


@dataclass(frozen=True)
class ExportedTokenizer:
    """A tokenizer to export.

    Attributes:
        ours: As the shards were written with it.
        file: Its file.
        eod: Text of the token that ends documents.
    """

    ours: Tokenizer
    file: Path
    eod: str


def find_tokenizer(
    config: RunConfig, *, fingerprint: str, eod: int, given: Path | None
) -> ExportedTokenizer:
    """Find the tokenizer that a run's shards were written with.

    Args:
        config: The run, beside whose shards ``megadga data build`` keeps the tokenizer's file.
        fingerprint: SHA-256 of the tokenizer's file, by the checkpoint.
        eod: Id of the token that ends documents, by the checkpoint.
        given: The file, if the user names it; a folder stands for its ``tokenizer.json``.

    Raises:
        ConfigError: If it is not found, or is another one.
    """
    if given is None:
        file = kept_file(config, fingerprint)
        if file is None:
            raise ConfigError(
                f"--tokenizer: expected the file that the shards were built with (SHA-256 "
                f"{fingerprint[:16]}...), or --no-tokenizer, found neither, and no copy of it, "
                f"tokenizer-{fingerprint[:16]}.model or .json, with the run's shards"
            )
    else:
        file = given / HUGGINGFACE_FILE if given.is_dir() else given
    content, found = read_tokenizer_file(file)
    if found != fingerprint:
        raise ConfigError(
            f"--tokenizer: expected the file that the shards were built with (SHA-256 "
            f"{fingerprint[:16]}...), found {file} ({found[:16]}...)"
        )
    return _opened(file, content, eod)


def open_tokenizer(file: Path, *, eod: int) -> ExportedTokenizer:
    """Read a tokenizer as shards are written with it.

    Args:
        file: Its file; a folder stands for its ``tokenizer.json``.
        eod: Id of the token that ends documents.

    Raises:
        ConfigError: If it is none, or has no such token.
    """
    file = file / HUGGINGFACE_FILE if file.is_dir() else file
    content, _ = read_tokenizer_file(file)
    return _opened(file, content, eod)


def kept_file(config: RunConfig, fingerprint: str) -> Path | None:
    """Return the copy of a tokenizer's file that a build kept with a run's shards, if any.

    Args:
        config: The run.
        fingerprint: SHA-256 of the file.

    Raises:
        ConfigError: If the copy is damaged.
    """
    domains = config.data.domains
    folders = [domains] if isinstance(domains, Path) else [each.path for each in domains]
    folders += [target.path for target in config.data.specific.values()]
    for folder in dict.fromkeys(place for each in folders for place in (each, each.parent)):
        for suffix in TOKENIZER_SUFFIXES:
            file = kept_tokenizer_path(folder, fingerprint, suffix)
            if file.exists():
                read_tokenizer_file(file, fingerprint=fingerprint)
                return file
    return None


def write_tokenizer(tokenizer: ExportedTokenizer, folder: Path, *, max_length: int) -> list[str]:
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


def _opened(file: Path, content: bytes, eod: int) -> ExportedTokenizer:
    name = _name(file, content, eod)
    return ExportedTokenizer(load_tokenizer(file, eod=name, encodes=False), file, name)


def _name(file: Path, content: bytes, eod: int) -> str:
    """Return the text of the token of an id."""
    name: str | None = None
    try:
        if file.suffix == ".model":
            name = SentencePieceProcessor(model_proto=content).id_to_piece(eod)
        else:
            name = Library.from_buffer(content).id_to_token(eod)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(f"{file}: expected a tokenizer, found {error}") from error
    if name is None:
        raise ConfigError(f"{file}: expected a token of the id {eod}, found none")
    return name


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
    tokenizer: ExportedTokenizer, folder: Path, library: Library, model: SentencePieceModel | None
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
