"""The tokenizer of a model: the file that a run's shards were written with, or a folder's own."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (transformers is partly typed)

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from megadga.config.models import HuggingFaceModel
from megadga.data.files import checksum
from megadga.errors import ConfigError
from megadga.model.hugging_face import Architecture
from megadga.prepare.tokenizers.base import read_tokenizer_file
from megadga.prepare.tokenizers.kept import kept_file, open_tokenizer
from megadga.prepare.tokenizers.loading import HUGGINGFACE_FILE
from megadga.train.models import TOKENIZER_FILES, file_of_model
from megadga.train.saved import SavedRun
from megadga.use.text import ModelTokenizer, TransformersCoder


@dataclass(frozen=True, eq=False)
class FoundTokenizer:
    """What is known about a model's tokenizer.

    Attributes:
        tokenizer: The tokenizer; None: there is none.
        missing: Why not.
        fingerprints: SHA-256 of its files, by which it is told that shards were written with it.
    """

    tokenizer: ModelTokenizer | None
    missing: str
    fingerprints: frozenset[str]


def tokenizer_of_run(name: str, run: SavedRun, given: Path | None) -> FoundTokenizer:
    """Find the tokenizer of a run by its fingerprint.

    Args:
        name: What the user calls the run.
        run: The run.
        given: The tokenizer's file, or a folder with its ``tokenizer.json``; None: the copy that
            is kept with the run's shards.

    Raises:
        ConfigError: If the file is another one, or damaged.
    """
    wanted, eod = run.tokenizer.fingerprint, run.tokenizer.eod
    if given is not None and given.is_dir():
        given = given / HUGGINGFACE_FILE
    file = kept_file(run.config, wanted) if given is None else given
    prints = frozenset((wanted,))
    if file is None:
        missing = (
            f"--tokenizer: expected the file that the shards of {name} were written with (SHA-256 "
            f"{wanted[:16]}...), found no copy of it with the run's shards"
        )
        return FoundTokenizer(None, missing, prints)
    _, found = read_tokenizer_file(file)
    if found != wanted:
        raise ConfigError(
            f"--tokenizer: expected the file that the run's shards were written with (SHA-256 "
            f"{wanted[:16]}...), found {file} ({found[:16]}...)"
        )
    ours = open_tokenizer(file, eod=eod).ours
    return FoundTokenizer(ModelTokenizer(ours, end=eod, start=eod), "", prints)


def tokenizer_of_folder(
    name: str, section: HuggingFaceModel, architecture: Architecture, given: Path | None
) -> FoundTokenizer:
    """Find the tokenizer of a model of transformers.

    Args:
        name: What the user calls the model.
        section: Where it is.
        architecture: What it is.
        given: File of a tokenizer with the same tokens; None: the model's own.

    Raises:
        ConfigError: If the file is no tokenizer, or has more tokens than the model.
    """
    if given is not None:
        return _given(name, architecture, given)
    assert section.path is not None, "found by its path"
    files = [
        file_of_model(section.path, file, section.revision) for file in TOKENIZER_FILES.values()
    ]
    prints = frozenset(checksum(file) for file in files if file is not None)
    try:
        return FoundTokenizer(_own(section, architecture), "", prints)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        found = " ".join(str(error).split())[:200]
        missing = f"{name}: expected a tokenizer, or --tokenizer FILE, found none: {found}"
        return FoundTokenizer(None, missing, prints)


def _own(section: HuggingFaceModel, architecture: Architecture) -> ModelTokenizer:
    """Return the tokenizer that comes with a model of transformers."""
    load: Any = AutoTokenizer.from_pretrained
    theirs = load(
        section.path,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        split_special_tokens=True,
    )
    end = _end(architecture) if theirs.eos_token_id is None else theirs.eos_token_id
    if end is None:
        raise ValueError("a tokenizer without an eos_token")
    before = tuple(theirs("")["input_ids"])
    return ModelTokenizer(TransformersCoder(theirs), end, theirs.bos_token_id, before)


def _given(name: str, architecture: Architecture, file: Path) -> FoundTokenizer:
    """Return a tokenizer that shards were written with, for a model that has the same tokens."""
    end = _end(architecture)
    if end is None:
        expected = "an eos_token_id in the model's configuration"
        raise ConfigError(f"{name}: expected {expected}, which ends documents, found none")
    ours = open_tokenizer(file, eod=end).ours
    if ours.identity.vocab_size > architecture.rows:
        raise ConfigError(
            f"--tokenizer: expected at most {architecture.rows:,} tokens, those of {name}, "
            f"found {ours.identity.vocab_size:,} in {file}"
        )
    start = architecture.config.get_text_config().bos_token_id
    tokenizer = ModelTokenizer(ours, end, start)
    return FoundTokenizer(tokenizer, "", frozenset((ours.identity.fingerprint,)))


def _end(architecture: Architecture) -> int | None:
    found: int | list[int] | None = architecture.config.get_text_config().eos_token_id
    return found[0] if isinstance(found, list) else found
