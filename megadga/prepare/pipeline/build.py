"""Documents to shards, from end to end: tokenized, sorted, merged. Knows no model, no training.

    files ──tasks──▶ sorted runs ──ranges of keys──▶ shards ──▶ a folder a domain, or one for all

Tasks and shards are done by whoever is free, each is whole or absent, and the bytes that come out
are the same whoever did what, in which order, and however often everybody was killed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ConfigError
from megadga.prepare.classifier import Classifier
from megadga.prepare.pipeline.corpus import Corpus, plan_tasks
from megadga.prepare.pipeline.merging import Merging, ShardTask, Sizes, SortedRun, plan_shards
from megadga.prepare.pipeline.outputs import Finishing, Output
from megadga.prepare.pipeline.recipe import Recipe
from megadga.prepare.pipeline.stages import Execution, tokenize_all, write_all
from megadga.prepare.pipeline.tokenizing import Tokenizing
from megadga.prepare.pipeline.workplace import TaskRecord
from megadga.prepare.tokenizer import Tokenizer
from megadga.shards.manifest import Manifest
from megadga.shards.writer import best_dtype

MOST_FOLDERS = 1 << 16
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Built:
    """What came of a build.

    Attributes:
        manifests: Of every folder with shards, in order.
        num_records: Records that were read, the bad ones too; 0 if all was there already.
        num_bad: Those that were left out.
        rejects: Where they are listed; None: there are none.
    """

    manifests: tuple[Manifest, ...]
    num_records: int = 0
    num_bad: int = 0
    rejects: Path | None = None


@dataclass(frozen=True)
class Build:
    """Everything that decides what is built.

    Attributes:
        corpus: What is read.
        tokenizer: Picklable if there are several workers.
        output: Where the domains go; a folder of domains may hold others already.
        recipe: How documents become splits of domains.
        classifier: Sorts documents into its domains; None: the corpus or the records say.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    output: Output
    recipe: Recipe = Recipe()
    classifier: Classifier | None = None

    @property
    def names(self) -> Sequence[str] | None:
        """The domains' names; None: the records say them."""
        return self.corpus.names if self.classifier is None else self.classifier.names

    @property
    def token_bytes(self) -> int:
        """Bytes of a token on the disk."""
        return best_dtype(self.tokenizer.identity.vocab_size).itemsize

    def describe(self) -> dict[str, Any]:
        """Return it JSON-shaped, with sizes and, under ``modified``, times of its files.

        Raises:
            ConfigError: If a file cannot be read.
        """
        try:
            stats = [source.path.stat() for source in self.corpus.sources]
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: expected a file, found {error.strerror}"
            ) from error
        return {
            "version": 1,
            "files": [
                [str(s.path.absolute()), stat.st_size, s.ordinal, s.domain, s.valid_fraction]
                for s, stat in zip(self.corpus.sources, stats, strict=True)
            ],
            "modified": [stat.st_mtime_ns for stat in stats],
            "names": self.corpus.names,
            "tokenizer": asdict(self.tokenizer.identity),
            "classifier": None if self.classifier is None else self.classifier.fingerprint,
            "recipe": asdict(self.recipe),
            "grouped": self.output.grouped,
        }


def build_shards(build: Build, execution: Execution = Execution()) -> Built:
    """Write the domains of a corpus, each document ended by EOD, in a random order.

    Killed at any moment and called again with the same build, it goes on where it was. Until it is
    finished everything is in a hidden folder beside the output, with as much room as that needs.

    Args:
        build: What is built.
        execution: Who does it, and what is too much for them.

    Raises:
        ConfigError: If a file cannot be read, too many records are bad, a domain has no document
            to train on, or a build of something else was begun at the same place.
        ShardError: If a domain's folder exists already and is of something else.
    """
    plan, workplace = build.describe(), build.output.workplace
    # Copies of the corpus have other times.
    digest = hashlib.sha256(json.dumps({**plan, "modified": None}).encode()).hexdigest()
    if build.names is not None:
        folders = build.output.folders(build.names)
        there = [build.output.finished(folder, digest) for folder in folders]
        if all(there) and not workplace.holds(plan):
            return Built(tuple(manifest for manifest in there if manifest is not None))
    with workplace.claimed(plan):
        records = _tokenize(build, execution, digest)
        manifests = _merge(build, execution, records, digest)
        workplace.remove()
    num_bad = sum(record.num_bad for record in records)
    return Built(
        manifests,
        num_records=sum(record.num_records for record in records),
        num_bad=num_bad,
        rejects=build.output.rejects_path(digest) if num_bad else None,
    )


def _tokenize(build: Build, execution: Execution, digest: str) -> list[TaskRecord]:
    job = Tokenizing(
        build.output.workplace,
        build.tokenizer,
        build.recipe,
        build.classifier,
        run_tokens=execution.held_tokens(build.token_bytes),
    )
    tasks = plan_tasks(build.corpus)
    return tokenize_all(job, tasks, execution, rejects_path=build.output.rejects_path(digest))


def _merge(
    build: Build, execution: Execution, records: Sequence[TaskRecord], digest: str
) -> tuple[Manifest, ...]:
    """Write all shards, and put each folder in its place once all of its shards are there."""
    names = build.names
    if names is None:
        names = sorted({n for record in records for run in record.runs for n in run.domains})
    merging = _merging(build, records, names)
    sizes = merging.sizes(len(names))
    _check_domains(build, names, sizes)
    note = {"version": 1, "build": digest, "recipe": asdict(build.recipe)}
    finish = Finishing(
        build.output,
        build.tokenizer.identity,
        names,
        sizes,
        classifier=None if build.classifier is None else build.classifier.fingerprint,
        build=note,
    )
    folders = build.output.folders(names)
    finished = {folder: build.output.finished(folder, digest) for folder in folders}
    plan = partial(
        plan_shards,
        tokens=sizes.tokens,
        shard_tokens=build.recipe.shard_tokens,
        range_tokens=execution.held_tokens(build.token_bytes),
    )
    shards: dict[str, list[ShardTask]] = {
        folder: list(plan(folder, domains))
        for folder, domains in folders.items()
        if finished[folder] is None
    }
    write_all(merging, [shard for of_folder in shards.values() for shard in of_folder], execution)
    made = {folder: finish(folder, of_folder) for folder, of_folder in shards.items()}
    return tuple(made[folder] if there is None else there for folder, there in finished.items())


def _merging(build: Build, records: Sequence[TaskRecord], names: Sequence[str]) -> Merging:
    numbers = {name: number for number, name in enumerate(names)}

    def renumbered(domains: Sequence[str]) -> IntArray | None:
        return np.array([numbers[n] for n in domains], dtype=np.int64) if domains else None

    return Merging(
        build.output.workplace,
        runs=[
            SortedRun(run.name, renumbered(run.domains))
            for record in records
            for run in record.runs
        ],
        dtype=best_dtype(build.tokenizer.identity.vocab_size),
        ids=build.recipe.keys.id is not None,
    )


def _check_domains(build: Build, names: Sequence[str], sizes: Sizes) -> None:
    """Check that every domain has something to train on, if they do not share a folder."""
    to_train_on = sizes.documents[0]
    if build.output.grouped:
        empty = [] if to_train_on.any() else ["any domain"]
    else:
        empty = [name for name, n in zip(names, to_train_on, strict=True) if n == 0]
    if empty or not names:
        shown = ", ".join(empty[:NAMES_SHOWN]) or "any domain"
        more = f" and {len(empty) - NAMES_SHOWN} more" if len(empty) > NAMES_SHOWN else ""
        raise ConfigError(
            f"{build.output.path}: expected at least one document to train on in each domain, "
            f"found none in {shown}{more}"
        )
    if len(names) > MOST_FOLDERS and not build.output.grouped:
        raise ConfigError(
            f"{build.recipe.keys.domain}: expected at most {MOST_FOLDERS} domains with a folder "
            f"each, found {len(names)}: group them into one"
        )
