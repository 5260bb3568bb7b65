"""Builds shards from documents: tokenize, sort, merge.

    files ──tasks──▶ sorted runs ──ranges of keys──▶ shards ──▶ a folder per domain, or one for all

Workers process tasks and shards in any order. Each result is written atomically, and the output
bytes do not depend on the number of workers, the order of tasks, or interruptions.
"""

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import IntArray
from megadga.data.manifest import Manifest
from megadga.errors import ConfigError, ShardError
from megadga.prepare.chat.encoding import ChatEncoder
from megadga.prepare.pieces import Classifier
from megadga.prepare.pipeline.corpus import Corpus, Recipe, plan_tasks
from megadga.prepare.pipeline.merging import (
    BuildOutput,
    DomainSizes,
    FolderFinisher,
    Provenance,
    ShardMerger,
    ShardTask,
    SortedRun,
    plan_shards,
)
from megadga.prepare.pipeline.runs import run_dtype
from megadga.prepare.pipeline.stages import Execution, tokenize_all, write_all
from megadga.prepare.pipeline.tokenizing import TaskTokenizer
from megadga.prepare.pipeline.work_folder import TaskRecord
from megadga.prepare.tokenizers.base import Tokenizer

MAX_FOLDERS = 1 << 16
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Result of a build.

    Attributes:
        manifests: Manifests of all folders with shards, in order.
        num_records: Records read, invalid ones included; 0 if the build was already complete.
        num_bad: Invalid records that were skipped.
        rejects: File that lists them; None if there are none.
        whole: Domains without a validation split, as all their documents would have been held
            out; empty if the build was already complete.
    """

    manifests: tuple[Manifest, ...]
    num_records: int = 0
    num_bad: int = 0
    rejects: Path | None = None
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """Everything that determines the output of a build.

    Attributes:
        corpus: The input.
        tokenizer: Picklable if there are several workers.
        output: The output; a folder of domains may contain others already.
        recipe: How documents become splits of domains.
        classifier: Assigns documents to domains; None: the corpus or the records do.
        chat: Renders and tokenizes dialogues; None: documents are texts.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    output: BuildOutput
    recipe: Recipe = Recipe()
    classifier: Classifier | None = None
    chat: ChatEncoder | None = None

    @property
    def names(self) -> Sequence[str] | None:
        """The domains' names; None if they come from the records."""
        return self.corpus.names if self.classifier is None else self.classifier.names

    @property
    def token_bytes(self) -> int:
        """Bytes per token until it is in a shard."""
        vocab_size = self.tokenizer.identity.vocab_size
        return run_dtype(vocab_size, chat=self.chat is not None).itemsize

    def describe(self) -> dict[str, Any]:
        """Return a JSON-serializable description, with sizes and modification times of its files.

        Raises:
            ConfigError: If a file cannot be read.
        """
        try:
            stats = [source.path.stat() for source in self.corpus.sources]
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: expected a file, found {error.strerror}"
            ) from error
        recipe = self.described_recipe
        merging = {"grouped": self.output.grouped, "shard_tokens": recipe.pop("shard_tokens")}
        return {
            "version": 1,
            "files": [
                [str(s.path.absolute()), stat.st_size, s.ordinal, s.domain, s.valid_fraction]
                for s, stat in zip(self.corpus.sources, stats, strict=True)
            ],
            "modified": {
                str(s.path.absolute()): stat.st_mtime_ns
                for s, stat in zip(self.corpus.sources, stats, strict=True)
            },
            "names": self.corpus.names,
            "tokenizer": asdict(self.tokenizer.identity),
            "classifier": None if self.classifier is None else self.classifier.fingerprint,
            "recipe": recipe,
            "merging": merging,
        }

    @property
    def described_recipe(self) -> dict[str, Any]:
        """The recipe as JSON; of dialogues with the fingerprint of their template."""
        recipe = asdict(self.recipe)
        recipe["keys"].pop("chat")
        return recipe if self.chat is None else recipe | {"chat": self.chat.template.fingerprint}


def build_shards(build: Build, execution: Execution = Execution()) -> BuildResult:
    """Write the domains of a corpus, in random order, with EOD after each document.

    If all documents of a domain would be held out, none are: copies of a document always belong to
    the same split, and a domain needs training text.

    An interrupted build resumes when called again with the same arguments. Until it is finished,
    everything is in a hidden folder beside the output, which needs about as much space.

    Args:
        build: What to build.
        execution: Workers and resource limits.

    Raises:
        ConfigError: If a file cannot be read or changes while it is read, too many records are
            invalid, a domain has no training document, or a different build was interrupted at the
            same location.
        ShardError: If a domain's folder exists from other input or from earlier versions of the
            files, or writing fails; completed work is kept.
    """
    with _written(build.output):
        return _build(build, execution)


def _build(build: Build, execution: Execution) -> BuildResult:
    plan, work_folder = build.describe(), build.output.work_folder
    _check_before(build)
    made = Provenance(_digest({**plan, "modified": None}), plan["modified"])
    if build.names is not None:
        folders = build.output.folders(build.names)
        there = [build.output.finished(folder, made) for folder in folders]
        if all(there) and not work_folder.is_of(plan):
            return BuildResult(tuple(manifest for manifest in there if manifest is not None))
    else:
        build.output.check_left(made)
    with work_folder.claim(plan):
        # Invalid records do not depend on the options of merging.
        rejects = build.output.rejects_path(_digest({**plan, "modified": None, "merging": None}))
        records = _tokenize(build, execution, rejects)
        _check_unchanged(build, plan)
        manifests, whole = _merge(build, execution, records, made)
        work_folder.remove()
    num_bad = sum(record.num_bad for record in records)
    return BuildResult(
        manifests,
        num_records=sum(record.num_records for record in records),
        num_bad=num_bad,
        rejects=rejects if num_bad else None,
        whole=whole,
    )


@contextmanager
def _written(output: BuildOutput) -> Generator[None]:
    """Convert ``OSError`` from writing to a one-line ``ShardError``."""
    try:
        yield
    except BrokenPipeError:
        raise  # of the progress output
    except OSError as error:
        path, reason = error.filename or output.work_folder.folder, error.strerror or error
        raise ShardError(
            f"{path}: expected to write the shards of {output.path}, found {reason}"
        ) from error


def _tokenize(build: Build, execution: Execution, rejects: Path) -> list[TaskRecord]:
    job = TaskTokenizer(
        build.output.work_folder,
        build.tokenizer,
        build.recipe,
        build.classifier,
        run_tokens=execution.held_tokens(build.token_bytes),
        record_bytes=execution.record_bytes,
        chat=build.chat,
    )
    tasks = plan_tasks(build.corpus)
    return tokenize_all(job, tasks, execution, rejects_path=rejects)


def _check_unchanged(build: Build, plan: Mapping[str, Any]) -> None:
    """Check that no input file has changed since the build began."""
    now = build.describe()
    before = {path: (size, plan["modified"][path]) for path, size, *_ in plan["files"]}
    for path, size, *_ in now["files"]:
        if (size, now["modified"][path]) != before[path]:
            raise ConfigError(
                f"{path}: expected no change during the build, found it modified: "
                f"remove {build.output.work_folder.folder} and build again"
            )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _merge(
    build: Build, execution: Execution, records: Sequence[TaskRecord], made: Provenance
) -> tuple[tuple[Manifest, ...], tuple[str, ...]]:
    """Write all shards, and move each folder to its final location when it is complete.

    Returns:
        The folders' manifests, and the names of the domains without held-out documents.
    """
    names = build.names
    if names is None:
        names = sorted({n for record in records for run in record.runs for n in run.domains})
        _check_number(build, names)
    merging = _merging(build, records, names)
    found = merging.sizes(len(names))
    whole = _held_out_whole(build, found)
    merging, sizes = replace(merging, whole=whole), found.trained_on(whole)
    _check_domains(build, names, sizes)
    finish = FolderFinisher(
        build.output,
        build.tokenizer,
        names,
        sizes,
        classifier=None if build.classifier is None else build.classifier.fingerprint,
        build={**made.describe(), "recipe": build.described_recipe},
    )
    folders = build.output.folders(names)
    finished = {folder: build.output.finished(folder, made) for folder in folders}
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
    written = {folder: finish(folder, of_folder) for folder, of_folder in shards.items()}
    manifests = (written[one] if there is None else there for one, there in finished.items())
    trained_on: list[int] = whole.tolist()
    return tuple(manifests), tuple(names[number] for number in trained_on)


def _merging(build: Build, records: Sequence[TaskRecord], names: Sequence[str]) -> ShardMerger:
    numbers = {name: number for number, name in enumerate(names)}

    def renumbered(domains: Sequence[str]) -> IntArray | None:
        return np.array([numbers[n] for n in domains], dtype=np.int64) if domains else None

    return ShardMerger(
        build.output.work_folder,
        runs=[
            SortedRun(run.name, renumbered(run.domains))
            for record in records
            for run in record.runs
        ],
        vocab_size=build.tokenizer.identity.vocab_size,
        ids=build.recipe.keys.id is not None,
        spans=build.chat is not None,
    )


def _held_out_whole(build: Build, sizes: DomainSizes) -> IntArray:
    """Return the domains whose documents were all held out by chance, in ascending order.

    Files that are explicitly for validation are never used for training.
    """
    given = {one.domain for one in build.corpus.sources if one.valid_fraction == 1.0}
    train, valid = sizes.documents
    held_out = (train == 0) & (valid > 0)
    if None in given:
        held_out[:] = False
    held_out[[number for number in given if number is not None]] = False
    return np.flatnonzero(held_out)


def _check_before(build: Build) -> None:
    """Check the output and the domains as far as possible before reading anything."""
    if build.output.path.exists() and not build.output.path.is_dir():
        raise ShardError(f"{build.output.path}: expected a folder or nothing yet, found a file")
    if build.names is None:
        return
    _check_number(build, build.names)
    if build.output.grouped or build.classifier is not None:
        return
    text = dict.fromkeys(range(len(build.names)), 0)
    for source in build.corpus.sources:
        if source.domain is not None and source.valid_fraction < 1.0:
            text[source.domain] += source.path.stat().st_size
    _refuse_empty(build, [build.names[number] for number, size in text.items() if not size])


def _check_domains(build: Build, names: Sequence[str], sizes: DomainSizes) -> None:
    """Check that every domain has training documents, if they do not share a folder."""
    to_train_on = sizes.documents[0]
    if build.output.grouped:
        empty = [] if to_train_on.any() else ["any domain"]
    else:
        empty = [name for name, n in zip(names, to_train_on, strict=True) if n == 0]
    _refuse_empty(build, empty if names else ["any domain"])


def _refuse_empty(build: Build, empty: Sequence[str]) -> None:
    if empty:
        raise ConfigError(
            f"{build.output.path}: expected at least one document to train on in each domain, "
            f"found none in {format_names(empty)}"
        )


def format_names(names: Sequence[str]) -> str:
    """Return a truncated list of names with the number of remaining ones."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _check_number(build: Build, names: Sequence[str]) -> None:
    if len(names) > MAX_FOLDERS and not build.output.grouped:
        raise ConfigError(
            f"{build.recipe.keys.domain or build.output.path}: expected at most {MAX_FOLDERS} "
            f"domains with a folder each, found {len(names)}: group them into one (--grouped)"
        )
