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
from megadga.prepare.pipeline.corpus import Part, Source, Task
from megadga.prepare.pipeline.recipe import Recipe
from megadga.prepare.pipeline.runs import (
    Documents,
    divide_groups,
    group_numbers,
    run_checksum,
    write_run,
)
from megadga.prepare.pipeline.task_progress import TaskProgress
from megadga.prepare.pipeline.workplace import Rejected, RunRecord, TaskRecord, Workplace
from megadga.prepare.reading.documents import iterate_records
from megadga.prepare.reading.records import Document, Reject, SpanEnd
from megadga.prepare.round_trips import find_change
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
                refused = self._tokenize(part, chunk.documents, runs)
                refused += [(reject.line, reject.reason) for reject in chunk.rejects]
                rejected += [Rejected(number, *one) for one in sorted(refused)]
                num_records += len(chunk.documents) + len(chunk.rejects)
                lines += chunk.num_lines
                progress.advance(chunk.input_bytes)
        record = TaskRecord(runs.finish(), num_records, len(rejected), lines)
        self.workplace.keep_task(task.number, record, rejected)
        progress.end()
        return record

    def has(self, task: Task) -> bool:
        """Return whether what a task left, before this program began, is whole."""
        record = self.workplace.task_record(task.number)
        return record is not None and all(
            run_checksum(self.workplace.run_prefix(run.name)) == run.checksum
            for run in record.runs
        )

    def _tokenize(
        self, part: Part, documents: Sequence[Document], runs: "_RunWriter"
    ) -> list[tuple[int, str]]:
        """Add documents to the runs; return the line of each that is refused, and why."""
        encoded = self.tokenizer.encode([document.text for document in documents])
        refused: list[tuple[int, str]] = []
        pieces: list[_Piece] = []
        for document, tokens in zip(documents, encoded, strict=True):
            digest = _digest(document)
            checked = _low_bits(digest) < part.checked
            if reason := self._find_fault(document, tokens, checked=checked):
                refused.append((document.line, f"{self.recipe.keys.text}: {reason}"))
                continue
            split = int(digest < part.source.valid_fraction * 2.0**64)
            pieces += [
                _Piece(document, split, number, piece)
                for number, piece in enumerate(cut_pieces(tokens, self.recipe.piece_tokens))
            ]
        if pieces:
            runs.add(part.source, pieces)
        return refused

    def _find_fault(self, document: Document, tokens: TokenArray, *, checked: bool) -> str | None:
        """Return why a document cannot be one of tokens; None: it can, as far as is checked."""
        if not tokens.size:
            return "expected text, found nothing to tokenize"
        if checked and (change := find_change(self.tokenizer, document.text, tokens)):
            return f"expected text that survives the tokenizer, {change}"
        return None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a document, or all of it: what becomes a document of a shard."""

    document: Document
    split: int
    number: int  # among the pieces of its document, from 0
    tokens: TokenArray  # without EOD


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

    def add(self, source: Source, pieces: Sequence[_Piece]) -> None:
        """Add pieces, at least one, of documents of one file."""
        eod = np.array([self._job.tokenizer.identity.eod], dtype=self._dtype)
        documents = [piece.document for piece in pieces]
        splits = np.array([piece.split for piece in pieces], dtype=np.int64)
        batch = Documents(
            tokens=np.concatenate([part for piece in pieces for part in (piece.tokens, eod)]),
            lengths=np.array([piece.tokens.size + 1 for piece in pieces], dtype=np.int64),
            groups=group_numbers(splits, self._domains(source, pieces)),
            keys=address_keys(
                self._job.recipe.seed,
                Stream.DOCUMENT_ORDER,
                source.ordinal,
                np.array([document.position for document in documents], dtype=np.int64),
                np.array([piece.number for piece in pieces], dtype=np.int64),
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

    def _domains(self, source: Source, pieces: Sequence[_Piece]) -> IntArray:
        if self._job.classifier is not None:
            whole = self._job.recipe.piece_tokens is None
            decode = self._job.tokenizer.decode
            texts = [one.document.text if whole else decode(one.tokens) for one in pieces]
            return self._job.classifier.assign(texts)
        if source.domain is not None:
            return np.full(len(pieces), source.domain, dtype=np.int64)
        names = [one.document.domain for one in pieces if one.document.domain is not None]
        assert len(names) == len(pieces), "records say their domain or a source does"
        return np.array([self._names.setdefault(n, len(self._names)) for n in names], np.int64)

    def _write(self) -> None:
        name = f"{self._task:06d}-{len(self._records):04d}"
        names = sorted(self._names)
        batches = self._batches
        if names:  # runs have domains in the order of their names, whoever came first
            places = np.argsort([self._names[name] for name in names])
            batches = [replace(b, groups=_renumbered(b.groups, places)) for b in batches]
        checksum = write_run(self._job.workplace.run_prefix(name), batches, self._dtype)
        self._records.append(RunRecord(name, names, checksum))
        self._batches, self._held, self._names = [], 0, {}


def _renumbered(groups: IntArray, places: IntArray) -> IntArray:
    """Return groups with domain ``d`` called ``places[d]``."""
    splits, domains = divide_groups(groups)
    return group_numbers(splits, places[domains])


def _digest(document: Document) -> int:
    """Return a number in [0, 2^64) that follows from a document's text, and decides its split."""
    return int.from_bytes(hashlib.blake2b(document.text.encode(), digest_size=8).digest())


def _low_bits(digest: int) -> float:
    """Return a number in [0, 1) of those bits of a digest that hardly decide on the split."""
    return (digest & 0xFFFF_FFFF) / 2.0**32
