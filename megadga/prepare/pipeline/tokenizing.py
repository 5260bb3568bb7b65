"""The first half of a build: the records of a task to sorted runs. Knows no shards.

Where a document comes in the final order, and on which side of the split it falls, follows from
the document alone: it does not matter who tokenizes it, when, and together with which others.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.prepare.classifier import Classifier
from megadga.prepare.pieces import cut_pieces
from megadga.prepare.pipeline.corpus import Source, Task
from megadga.prepare.pipeline.recipe import Recipe
from megadga.prepare.pipeline.runs import Documents, divide_groups, group_numbers, write_run
from megadga.prepare.pipeline.task_progress import TaskProgress
from megadga.prepare.pipeline.workplace import Rejected, RunRecord, TaskRecord, Workplace
from megadga.prepare.reading.documents import iterate_records
from megadga.prepare.reading.records import Document, Reject, SpanEnd
from megadga.prepare.tokenizer import Tokenizer
from megadga.sampling.addresses import Stream, address_keys
from megadga.shards.writer import best_dtype

CHUNK_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Tokenizing:
    """What a worker does with a task; the same for all tasks of a build.

    Attributes:
        workplace: Where runs and records go.
        tokenizer: Picklable.
        recipe: How documents are read, cut and split.
        classifier: Sorts documents into domains; None: their source or a key does.
        run_tokens: Tokens that are held in memory before they are written as a run, at least 1.
    """

    workplace: Workplace
    tokenizer: Tokenizer
    recipe: Recipe
    classifier: Classifier | None
    run_tokens: int

    def __call__(self, task: Task) -> TaskRecord:
        """Tokenize one task; what it leaves is whole, and recorded, when this returns.

        Raises:
            ConfigError: If a file is damaged or missing.
        """
        progress = TaskProgress(self.workplace.progress_path(task.number))
        runs = _RunWriter(self, task.number)
        rejected: list[Rejected] = []
        lines: list[int] = []
        num_records = 0
        for number, part in enumerate(task.parts):
            for chunk in _chunks(iterate_records(part.span, self.recipe.keys)):
                refused = self._tokenize(part.source, chunk.documents, runs)
                refused += [(reject.line, reject.reason) for reject in chunk.rejects]
                rejected += [Rejected(number, *one) for one in sorted(refused)]
                num_records += len(chunk.documents) + len(chunk.rejects)
                lines += chunk.num_lines
                progress.advance(chunk.input_bytes)
        record = TaskRecord(runs.finish(), num_records, len(rejected), lines)
        self.workplace.keep_task(task.number, record, rejected)
        progress.end()
        return record

    def _tokenize(
        self, source: Source, documents: Sequence[Document], runs: "_RunWriter"
    ) -> list[tuple[int, str]]:
        """Add documents to the runs; return the line of each that has no tokens, and why."""
        encoded = self.tokenizer.encode([document.text for document in documents])
        refused = [
            (document.line, f"{self.recipe.keys.text}: expected text, found nothing to tokenize")
            for document, tokens in zip(documents, encoded, strict=True)
            if not tokens.size
        ]
        pieces = [
            (document, number, piece)
            for document, tokens in zip(documents, encoded, strict=True)
            if tokens.size
            for number, piece in enumerate(cut_pieces(tokens, self.recipe.piece_tokens))
        ]
        if pieces:
            runs.add(source, *(list(column) for column in zip(*pieces, strict=True)))
        return refused


@dataclass(slots=True)
class _Chunk:
    """Neighbouring records of one part: enough to tokenize at a time."""

    documents: list[Document] = field(default_factory=list[Document])
    rejects: list[Reject] = field(default_factory=list[Reject])
    num_lines: list[int] = field(default_factory=list[int])  # one number, where the part ends
    input_bytes: int = 0


def _chunks(records: Iterable[Document | Reject | SpanEnd]) -> Iterator[_Chunk]:
    chunk = _Chunk()
    held = 0
    for record in records:
        chunk.input_bytes += record.input_bytes
        match record:
            case Document():
                chunk.documents.append(record)
                held += len(record.text)
            case Reject():
                chunk.rejects.append(record)
                held += len(record.reason)
            case SpanEnd():
                chunk.num_lines.append(record.num_lines)
        if held >= CHUNK_CHARACTERS:
            yield chunk
            chunk, held = _Chunk(), 0
    yield chunk


@final
class _RunWriter:
    """Collects a task's documents and writes a run whenever enough are there.

    Args:
        job: What is tokenized, and how.
        task: Number of the task.
    """

    def __init__(self, job: Tokenizing, task: int) -> None:
        self._job = job
        self._task = task
        self._dtype = best_dtype(job.tokenizer.identity.vocab_size)
        self._batches: list[Documents] = []
        self._held = 0
        self._names: dict[str, int] = {}  # where records say their domain: in order of appearance
        self._records: list[RunRecord] = []

    def add(
        self,
        source: Source,
        documents: Sequence[Document],
        numbers: Sequence[int],
        pieces: Sequence[TokenArray],
    ) -> None:
        """Add pieces of documents.

        Args:
            source: The file they are from.
            documents: The document of each piece.
            numbers: Which piece of its document each is, from 0.
            pieces: Tokens of each, without EOD, at least one.
        """
        recipe = self._job.recipe
        eod = np.array([self._job.tokenizer.identity.eod], dtype=self._dtype)
        batch = Documents(
            tokens=np.concatenate([part for piece in pieces for part in (piece, eod)]),
            lengths=np.array([piece.size + 1 for piece in pieces], dtype=np.int64),
            groups=group_numbers(
                _splits(source, documents), self._domains(source, documents, pieces)
            ),
            keys=address_keys(
                recipe.seed,
                Stream.DOCUMENT_ORDER,
                source.ordinal,
                np.array([document.position for document in documents], dtype=np.int64),
                np.array(numbers, dtype=np.int64),
            ),
            ids=[document.id for document in documents if document.id is not None],
        )
        self._batches.append(batch)
        self._held += batch.tokens.size
        if self._held >= self._job.run_tokens:
            self._write()

    def finish(self) -> list[RunRecord]:
        """Write what is left and return all runs of the task."""
        if self._batches:
            self._write()
        return self._records

    def _domains(
        self, source: Source, documents: Sequence[Document], pieces: Sequence[TokenArray]
    ) -> IntArray:
        if self._job.classifier is not None:
            whole = self._job.recipe.piece_tokens is None
            decode = self._job.tokenizer.decode
            texts = [d.text for d in documents] if whole else [decode(piece) for piece in pieces]
            return self._job.classifier.assign(texts)
        if source.domain is not None:
            return np.full(len(documents), source.domain, dtype=np.int64)
        names = [document.domain for document in documents if document.domain is not None]
        assert len(names) == len(documents), "records say their domain or a source does"
        return np.array([self._names.setdefault(n, len(self._names)) for n in names], np.int64)

    def _write(self) -> None:
        name = f"{self._task:06d}-{len(self._records):04d}"
        names = sorted(self._names)
        batches = self._batches
        if names:  # runs have domains in the order of their names, whoever came first
            places = np.argsort([self._names[name] for name in names])
            batches = [replace(b, groups=_renumbered(b.groups, places)) for b in batches]
        write_run(self._job.workplace.run_prefix(name), batches, self._dtype)
        self._records.append(RunRecord(name, names))
        self._batches, self._held, self._names = [], 0, {}


def _renumbered(groups: IntArray, places: IntArray) -> IntArray:
    """Return groups with domain ``d`` called ``places[d]``."""
    splits, domains = divide_groups(groups)
    return group_numbers(splits, places[domains])


def _splits(source: Source, documents: Sequence[Document]) -> IntArray:
    """Return the number of each document's split."""
    limit = source.valid_fraction * 2.0**64
    digests = (hashlib.blake2b(d.text.encode(), digest_size=8).digest() for d in documents)
    return np.array([int.from_bytes(digest) < limit for digest in digests], dtype=np.int64)
