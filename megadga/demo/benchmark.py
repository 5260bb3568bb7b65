"""What benchmarks run on: a user's files, or text found on this machine."""

from collections.abc import Sequence
from pathlib import Path

from megadga.demo.folder import DemoFolder, collect_documents, write_domains
from megadga.errors import ConfigError
from megadga.prepare.reading.inputs import expand_inputs
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import sample_texts, train_tokenizer

TOKENIZER_CHARACTERS = 10_000_000


def prepare_corpus(
    patterns: Sequence[str] | None, folder: Path, *, vocab_size: int
) -> tuple[tuple[Path, ...], Path]:
    """Return the domains' files and a sentencepiece model trained on them.

    Args:
        patterns: Paths or globs; None: the demo's domains.
        folder: Output folder for the model and collected text.
        vocab_size: Vocabulary size of the model.

    Raises:
        ConfigError: If a pattern matches nothing, or there is too little text.
    """
    if patterns is None:
        documents = DemoFolder(folder)
        collect_documents(documents, print)
        patterns = [str(documents.documents / "domains" / "*.jsonl")]
    files = expand_inputs(patterns)
    texts = sample_texts(files, max_characters=TOKENIZER_CHARACTERS)
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, prefix=folder / "tokenizer")
    return files, tokenizer.path


def prepare_shards(
    patterns: Sequence[str] | None,
    target: Sequence[str] | None,
    folder: Path,
    *,
    vocab_size: int,
) -> tuple[Path, Path]:
    """Return a folder of domains' shards, and the folder of a specific set's.

    Args:
        patterns: Paths or globs, one file per domain; None: the demo's domains.
        target: Files of the specific set, one or a pair of splits; None: the demo's.
        folder: Output folder.
        vocab_size: Vocabulary size of the tokenizer, which is trained on the domains only.

    Raises:
        ConfigError: If only one of domains and specific set is given, a pattern matches nothing,
            the target makes more than one set, or there is too little text.
    """
    if (patterns is None) != (target is None):
        raise ConfigError(
            "input: expected files of the domains and of a specific set, or neither for the text "
            "of this machine, found one of them"
        )
    files, model = prepare_corpus(patterns, folder, vocab_size=vocab_size)
    demo, tokenizer = DemoFolder(folder), load_tokenizer(model)
    write_domains([str(file) for file in files], tokenizer, demo.domains)
    found = target or [str(demo.documents / "specific" / "*.jsonl")]
    names = write_domains(found, tokenizer, demo.specific)
    if len(names) != 1:
        raise ConfigError(f"target: expected one specific set, found {', '.join(names)}")
    return demo.domains, demo.specific / names[0]
