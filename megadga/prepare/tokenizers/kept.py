"""Finds the tokenizer that a run's shards were written with, by its fingerprint."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.prepare.extras import import_extra
from megadga.prepare.reading.splits import TOKENIZER_SUFFIXES, kept_tokenizer_path
from megadga.prepare.tokenizers.base import Tokenizer, read_tokenizer_file
from megadga.prepare.tokenizers.loading import HUGGINGFACE_FILE, load_tokenizer


@dataclass(frozen=True)
class KeptTokenizer:
    """The tokenizer that shards were written with.

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
) -> KeptTokenizer:
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


def open_tokenizer(file: Path, *, eod: int) -> KeptTokenizer:
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
    return kept_beside(folders, fingerprint)


def kept_beside(folders: Iterable[Path], fingerprint: str) -> Path | None:
    """Return the copy of a tokenizer's file that a build kept with shards, if any.

    Args:
        folders: Of the shards; it is in one of these or in the folder above.
        fingerprint: SHA-256 of the file.

    Raises:
        ConfigError: If the copy is damaged.
    """
    for folder in dict.fromkeys(place for each in folders for place in (each, each.parent)):
        for suffix in TOKENIZER_SUFFIXES:
            file = kept_tokenizer_path(folder, fingerprint, suffix)
            if file.exists():
                read_tokenizer_file(file, fingerprint=fingerprint)
                return file
    return None


def _opened(file: Path, content: bytes, eod: int) -> KeptTokenizer:
    name = _name(file, content, eod)
    return KeptTokenizer(load_tokenizer(file, eod=name, encodes=False), file, name)


def _name(file: Path, content: bytes, eod: int) -> str:
    """Return the text of the token of an id."""
    name: str | None = None
    try:
        if file.suffix == ".model":
            name = SentencePieceProcessor(model_proto=content).id_to_piece(eod)
        else:
            library = import_extra("tokenizers", extra="data").Tokenizer.from_buffer(content)
            name = library.id_to_token(eod)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(f"{file}: expected a tokenizer, found {error}") from error
    if name is None:
        raise ConfigError(f"{file}: expected a token of the id {eod}, found none")
    return name
