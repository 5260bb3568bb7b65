"""From this machine's text to shards, by the same code as the tools. Knows no training.

Each part writes under another name first, so that what is there is whole and is not made again.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.demo.harvest import harvest
from megadga.prepare.bars import Bars
from megadga.prepare.pipeline.build import Build, build_shards
from megadga.prepare.pipeline.corpus import corpus_by_input
from megadga.prepare.pipeline.outputs import Output
from megadga.prepare.pipeline.recipe import Recipe
from megadga.prepare.pipeline.stages import Execution
from megadga.prepare.reading.inputs import expand_inputs, plan_domains
from megadga.prepare.tokenizer import Tokenizer, load_tokenizer
from megadga.prepare.training import sample_texts, train_tokenizer

VOCABULARY_SIZE = 4096
TOKENIZER_CHARACTERS = 6_000_000
"""Text that the tokenizer is trained on, an equal part of each domain."""
VALID_FRACTION = 0.05


def collect_documents(folder: DemoFolder, report: Callable[[str], None]) -> None:
    """Write the text found on this machine as JSON lines, a file each domain.

    Raises:
        ConfigError: If the machine has too little.
    """
    if folder.documents.exists():
        report(f"{folder.documents}: already there")
        return
    corpus = harvest(report)
    partial = folder.documents.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, documents in corpus.domains.items():
        _write_lines(partial / "domains" / f"{name}.jsonl", documents)
    _write_lines(partial / "specific" / f"{SPECIFIC}.train.jsonl", corpus.specific_train)
    _write_lines(partial / "specific" / f"{SPECIFIC}.valid.jsonl", corpus.specific_valid)
    partial.rename(folder.documents)


def learn_tokenizer(folder: DemoFolder, report: Callable[[str], None]) -> Tokenizer:
    """Train a tokenizer on the training domains alone, and load it."""
    if folder.tokenizer.exists():
        report(f"{folder.tokenizer}: already there")
        return load_tokenizer(folder.tokenizer)
    inputs = expand_inputs([str(folder.documents / "domains" / "*.jsonl")])
    tokenizer = train_tokenizer(
        sample_texts(inputs, max_characters=TOKENIZER_CHARACTERS),
        vocab_size=VOCABULARY_SIZE,
        prefix=folder.tokenizer.with_suffix(""),
    )
    report(f"{folder.tokenizer}: {tokenizer.identity.vocab_size:,} pieces")
    return tokenizer


def write_shards(folder: DemoFolder, tokenizer: Tokenizer, report: Callable[[str], None]) -> None:
    """Write the shards of every domain and of the specific set."""
    for kind, output in (("domains", folder.domains), ("specific", folder.specific)):
        names = write_domains([str(folder.documents / kind / "*.jsonl")], tokenizer, output)
        report(f"{output}: {', '.join(names)}")


def write_domains(patterns: Sequence[str], tokenizer: Tokenizer, output: Path) -> tuple[str, ...]:
    """Write shards of files, a domain each unless they are the two splits of one.

    Args:
        patterns: Paths or globs.
        tokenizer: Encodes them.
        output: Gets a folder a domain.

    Returns:
        The domains' names.

    Raises:
        ConfigError: If a pattern matches nothing, or files do not make domains.
    """
    recipe = Recipe(valid_fraction=VALID_FRACTION)
    inputs = plan_domains(expand_inputs(patterns))
    corpus = corpus_by_input(inputs, valid_fraction=recipe.valid_fraction)
    with Bars() as bars:
        build_shards(Build(corpus, tokenizer, Output(output), recipe), Execution(stages=bars))
    return tuple(one.name for one in inputs)


def _write_lines(path: Path, documents: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
