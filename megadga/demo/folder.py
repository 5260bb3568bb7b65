"""The demo's folder, and what is prepared in it: text of this machine, a tokenizer, shards."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.demo.harvest import harvest
from megadga.prepare.pipeline.build import Build, build_shards
from megadga.prepare.pipeline.corpus import Recipe, corpus_by_input
from megadga.prepare.pipeline.merging import BuildOutput
from megadga.prepare.pipeline.stages import Execution
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.inputs import expand_inputs, plan_domains
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import sample_texts, train_tokenizer
from megadga.run_folder import METRICS_FILE

SPECIFIC = "language_reference"
"""Name of the specific set."""


@dataclass(frozen=True)
class DemoFolder:
    """The paths of a demo; each exists only when the stage that creates it is complete.

    Attributes:
        root: The folder that holds everything.
    """

    root: Path

    @property
    def documents(self) -> Path:
        """Harvested text: ``domains/NAME.jsonl`` and both halves of the specific set."""
        return self.root / "documents"

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return self.root / "tokenizer.model"

    @property
    def domains(self) -> Path:
        """Shards of the training domains, one folder per domain, written atomically."""
        return self.root / "shards" / "domains"

    @property
    def specific(self) -> Path:
        """Folder of the specific set's folder of shards."""
        return self.root / "shards" / "specific"

    @property
    def images(self) -> tuple[Path, ...]:
        """The weights and the alignments over time."""
        return self.root / "weights.png", self.root / "alignments.png"

    @property
    def page(self) -> Path:
        """Both runs side by side."""
        return self.root / "report.html"

    def config(self, run: str) -> Path:
        """Return the YAML file of a run."""
        return self.root / f"{run}.yaml"

    def run(self, run: str) -> Path:
        """Return the output folder of a run."""
        return self.root / run

    def metrics(self, run: str) -> Path:
        """Return the metrics file of a run."""
        return self.run(run) / METRICS_FILE

    def remove(self, runs: tuple[str, ...]) -> None:
        """Remove the demo's files, and no others in the folder."""
        made = [self.documents, self.root / "shards", self.tokenizer, *self.images, self.page]
        made += [self.config(run) for run in runs] + [self.run(run) for run in runs]
        for path in made:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


VOCABULARY_SIZE = 4096


TOKENIZER_CHARACTERS = 6_000_000
"""Text that the tokenizer is trained on, an equal part of each domain."""


VALID_FRACTION = 0.05


def collect_documents(folder: DemoFolder, report: Callable[[str], None]) -> None:
    """Write the text found on this machine as JSON lines, one file per domain.

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


def train_demo_tokenizer(folder: DemoFolder, report: Callable[[str], None]) -> Tokenizer:
    """Train a tokenizer on the training domains only, and load it."""
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
    """Write shards of files, one domain per file or pair of splits.

    Args:
        patterns: Paths or globs.
        tokenizer: Encodes them.
        output: Output folder, with one folder per domain.

    Returns:
        The domains' names.

    Raises:
        ConfigError: If a pattern matches nothing, or files do not make domains.
    """
    recipe = Recipe(valid_fraction=VALID_FRACTION)
    inputs = plan_domains(expand_inputs(patterns))
    corpus = corpus_by_input(inputs, valid_fraction=recipe.valid_fraction)
    with ProgressBars() as bars:
        build_shards(Build(corpus, tokenizer, BuildOutput(output), recipe), Execution(stages=bars))
    return tuple(one.name for one in inputs)


def _write_lines(path: Path, documents: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
