"""What lies where in the demo's folder. Knows no content."""

import shutil
from dataclasses import dataclass
from pathlib import Path

SPECIFIC = "language_reference"
"""Name of the specific set."""


@dataclass(frozen=True)
class DemoFolder:
    """The paths of one demo, each made by one part of it, and there only when that part is done.

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
        """Shards of the training domains, a folder each; each is whole or not there."""
        return self.root / "shards" / "domains"

    @property
    def specific(self) -> Path:
        """Folder of the specific set's folder of shards."""
        return self.root / "shards" / "specific"

    @property
    def images(self) -> tuple[Path, ...]:
        """The weights and the alignments over time."""
        return self.root / "weights.png", self.root / "alignments.png"

    def config(self, run: str) -> Path:
        """Return the YAML file of a run."""
        return self.root / f"{run}.yaml"

    def run(self, run: str) -> Path:
        """Return the output folder of a run."""
        return self.root / run

    def metrics(self, run: str) -> Path:
        """Return the metrics file of a run."""
        return self.run(run) / "metrics.jsonl"

    def remove(self, runs: tuple[str, ...]) -> None:
        """Remove what a demo makes, and nothing else that may be in the folder."""
        made = [self.documents, self.root / "shards", self.tokenizer, *self.images]
        made += [self.config(run) for run in runs] + [self.run(run) for run in runs]
        for path in made:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
