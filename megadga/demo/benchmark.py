"""What benchmarks of preparation run on: a user's files, or text found on this machine.

Knows no benchmark.
"""

from collections.abc import Sequence
from pathlib import Path

from megadga.demo.data import collect_documents
from megadga.demo.folder import DemoFolder
from megadga.prepare.reading.inputs import expand_inputs
from megadga.prepare.training import sample_texts, train_tokenizer

TOKENIZER_CHARACTERS = 10_000_000


def prepare_corpus(
    patterns: Sequence[str] | None, folder: Path, *, vocab_size: int
) -> tuple[tuple[Path, ...], Path]:
    """Return files, one a domain, and a sentencepiece model trained on them.

    Args:
        patterns: Paths or globs; None: the demo's domains.
        folder: Gets the model, and what is found on this machine.
        vocab_size: Ids of the model.

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
