"""First half of a build: tokenizes the documents of a task into sorted runs."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.permutation import RandomStream, address_keys
from megadga.prepare.chat.encoding import ChatEncoder
from megadga.prepare.pieces import Classifier, cut_pieces
from megadga.prepare.pipeline.corpus import FilePart, Recipe, SourceFile, Task
from megadga.prepare.pipeline.runs import (
    TokenizedDocuments,
    divide_groups,
    group_numbers,
    run_checksum,
    run_dtype,
    write_run,
)
from megadga.prepare.pipeline.work_folder import (
    RunRecord,
    TaskProgress,
    TaskRecord,
    TaskReject,
    WorkFolder,
)
from megadga.prepare.reading.documents import iterate_records
from megadga.prepare.reading.records import Document, InvalidRecord, RecordError, SpanEnd
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.round_trips import find_change

CHUNK_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class TaskTokenizer:
    """Tokenizes the tasks of a build; picklable, for workers.

    Attributes:
        work_folder: Folder of runs and records.
        tokenizer: Picklable.
        recipe: How documents are read and split.
        classifier: Assigns documents to domains; None: their source or a key does.
        run_tokens: Tokens held in memory before they are written as a run, at least 1.
        record_bytes: Size limit of a line, or of a file that is one document. None: unlimited.
        chat: Renders and tokenizes dialogues; None: documents are texts.
    """

    work_folder: WorkFolder
    tokenizer: Tokenizer
    recipe: Recipe
    classifier: Classifier | None
    run_tokens: int
    record_bytes: int | None = None
    chat: ChatEncoder | None = None

    def __call__(self, task: Task) -> TaskRecord:
        """Tokenize one task and record its completion.

        Raises:
            ConfigError: If a file is damaged or missing.
        """
        progress = TaskProgress(self.work_folder.progress_path(task.number))
        runs = _RunWriter(self, task.number)
        rejected: list[TaskReject] = []
        lines: list[int] = []
        num_records = 0
        for number, part in enumerate(task.parts):
            for chunk in _chunks(
                iterate_records(part.span, self.recipe.keys, max_record_bytes=self.record_bytes)
            ):
                refused = self._tokenize(part, chunk.documents, runs)
                refused += [(reject.line, reject.reason) for reject in chunk.rejects]
                rejected += [TaskReject(number, *one) for one in sorted(refused)]
                num_records += len(chunk.documents) + len(chunk.rejects)
                lines += chunk.num_lines
                progress.advance(chunk.input_bytes)
        record = TaskRecord(runs.finish(), num_records, len(rejected), lines)
        self.work_folder.save_task(task.number, record, rejected)
        progress.end()
        return record

    def has(self, task: Task) -> bool:
        """Return whether an earlier process completed a task and its runs are intact."""
        record = self.work_folder.task_record(task.number)
        return record is not None and all(
            run_checksum(self.work_folder.run_prefix(run.name)) == run.checksum
            for run in record.runs
        )

    def _tokenize(
        self, part: FilePart, documents: Sequence[Document], runs: "_RunWriter"
    ) -> list[tuple[int, str]]:
        """Add documents to the runs; return line and reason of each invalid one."""
        encoded = self._encode(documents)
        refused: list[tuple[int, str]] = []
        pieces: list[_Piece] = []
        for document, tokens in zip(documents, encoded, strict=True):
            digest = _digest(document)
            checked = _low_bits(digest) < part.checked
            if isinstance(tokens, RecordError):
                refused.append((document.line, str(tokens)))
                continue
            if reason := self._find_problem(document, tokens, checked=checked):
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

    def _encode(self, documents: Sequence[Document]) -> Sequence[TokenArray | RecordError]:
        """Return the tokens of each document, of a dialogue with EOD, or why there are none."""
        if self.chat is None:
            return self.tokenizer.encode([document.text for document in documents])
        encoded: list[TokenArray | RecordError] = []
        for document in documents:
            try:
                encoded.append(self.chat.encode(document.text))
            except RecordError as error:
                encoded.append(error)
        return encoded

    def _find_problem(
        self, document: Document, tokens: TokenArray, *, checked: bool
    ) -> str | None:
        """Return why a document cannot be tokenized losslessly, None if no problem was found."""
        if self.chat is not None:
            return None  # each of them was checked
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
    tokens: TokenArray  # without EOD, unless it is a dialogue


@dataclass(slots=True)
class _Chunk:
    """Consecutive records of one part that are tokenized together."""

    documents: list[Document] = field(default_factory=list[Document])
    rejects: list[InvalidRecord] = field(default_factory=list[InvalidRecord])
    num_lines: list[int] = field(default_factory=list[int])  # one number, where the part ends
    input_bytes: int = 0


def _chunks(records: Iterable[Document | InvalidRecord | SpanEnd]) -> Iterator[_Chunk]:
    chunk = _Chunk()
    held = 0
    for record in records:
        chunk.input_bytes += record.input_bytes
        match record:
            case Document():
                chunk.documents.append(record)
                held += len(record.text)
            case InvalidRecord():
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
    """Collects a task's documents and writes a run whenever the memory limit is reached.

    Args:
        job: The tokenizing function.
        task: Number of the task.
    """

    def __init__(self, job: TaskTokenizer, task: int) -> None:
        self._job = job
        self._task = task
        identity, is_chat = job.tokenizer.identity, job.chat is not None
        self._dtype = run_dtype(identity.vocab_size, chat=is_chat)
        self._eod = np.array([] if is_chat else [identity.eod], dtype=self._dtype)
        self._batches: list[TokenizedDocuments] = []
        self._held = 0
        self._names: dict[str, int] = {}  # domains named in records, in order of appearance
        self._records: list[RunRecord] = []

    def add(self, source: SourceFile, pieces: Sequence[_Piece]) -> None:
        """Add at least one piece of documents of one file."""
        eod = self._eod
        documents = [piece.document for piece in pieces]
        splits = np.array([piece.split for piece in pieces], dtype=np.int64)
        batch = TokenizedDocuments(
            tokens=np.concatenate([part for piece in pieces for part in (piece.tokens, eod)]),
            lengths=np.array([piece.tokens.size + eod.size for piece in pieces], dtype=np.int64),
            groups=group_numbers(splits, self._domains(source, pieces)),
            keys=address_keys(
                self._job.recipe.seed,
                RandomStream.DOCUMENT_ORDER,
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
        """Write the remaining documents and return all runs of the task."""
        if self._batches:
            self._write()
        return self._records

    def _domains(self, source: SourceFile, pieces: Sequence[_Piece]) -> IntArray:
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
        if names:  # domains of runs are sorted by name, independent of the order of appearance
            places = np.argsort([self._names[name] for name in names])
            batches = [replace(b, groups=_renumbered(b.groups, places)) for b in batches]
        checksum = write_run(self._job.work_folder.run_prefix(name), batches, self._dtype)
        self._records.append(RunRecord(name, names, checksum))
        self._batches, self._held, self._names = [], 0, {}


def _renumbered(groups: IntArray, places: IntArray) -> IntArray:
    """Return group numbers with domain ``d`` replaced by ``places[d]``."""
    splits, domains = divide_groups(groups)
    return group_numbers(splits, places[domains])


def _digest(document: Document) -> int:
    """Return a hash of a document's text in [0, 2^64), which determines its split."""
    return int.from_bytes(hashlib.blake2b(document.text.encode(), digest_size=8).digest())


def _low_bits(digest: int) -> float:
    """Return the low bits of a hash as a number in [0, 1); nearly independent of the split."""
    return (digest & 0xFFFF_FFFF) / 2.0**32
