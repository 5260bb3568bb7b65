"""First half of a build: tokenizes documents into sorted runs, and collects invalid records."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import IntArray, TokenArray
from megadga.data.files import atomic_write
from megadga.data.indexed import TokenType, best_dtype
from megadga.data.permutation import KeyArray, RandomStream, address_keys
from megadga.data.targets import MARKED_TYPE
from megadga.prepare.chat.encoding import ChatEncoder
from megadga.prepare.classifier import Classifier
from megadga.prepare.pieces import cut_pieces
from megadga.prepare.pipeline.corpus import FilePart, Recipe, SourceFile, Task
from megadga.prepare.pipeline.work_folder import (
    RunRecord,
    TaskProgress,
    TaskRecord,
    TaskReject,
    WorkFolder,
)
from megadga.prepare.reading.documents import iterate_records
from megadga.prepare.reading.formats import Format, find_format
from megadga.prepare.reading.records import Document, InvalidRecord, RecordError, SpanEnd
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.round_trips import find_change

SPLIT_SHIFT = 32


BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class TokenizedDocuments:
    """Tokenized documents with their sort keys.

    Attributes:
        tokens: Concatenated tokens, with EOD after each document; of dialogues, as
            ``mark_targets`` returns them.
        lengths: Tokens per document, at least 1, shape ``(n,)``.
        groups: Group (split and domain) of each, shape ``(n,)``.
        keys: Random sort key of each, shape ``(n,)``.
        ids: Ids of the source records; empty if there are none.
    """

    tokens: TokenArray
    lengths: IntArray
    groups: IntArray
    keys: KeyArray
    ids: Sequence[str]

    def without(self, groups: IntArray) -> "TokenizedDocuments":
        """Return the documents that are not in the given groups."""
        kept = ~np.isin(self.groups, groups)
        return TokenizedDocuments(
            tokens=self.tokens[np.repeat(kept, self.lengths)],
            lengths=self.lengths[kept],
            groups=self.groups[kept],
            keys=self.keys[kept],
            ids=[one for one, keep in zip(self.ids, kept, strict=True) if keep]
            if self.ids
            else (),
        )


@dataclass(frozen=True, slots=True)
class SortPosition:
    """A position in the sort order (split, domain, key), before all documents not below it.

    Attributes:
        split: Index of the split.
        domain: Index of the domain.
        key: Sort key, in [0, 2^64).
    """

    split: int
    domain: int
    key: int = 0


def run_dtype(vocab_size: int, *, chat: bool) -> TokenType:
    """Return the type of the tokens in runs; of dialogues, they may be marked."""
    return MARKED_TYPE if chat else best_dtype(vocab_size)


def write_run(prefix: Path, batches: Sequence[TokenizedDocuments], dtype: TokenType) -> int:
    """Sort documents and write them as one run; return its checksum.

    The sort is stable.

    Args:
        prefix: Path of the files without suffix; the folder must exist.
        batches: The documents.
        dtype: Type of the tokens.

    Raises:
        OSError: If writing fails.
    """
    lengths = np.concatenate([batch.lengths for batch in batches])
    groups = np.concatenate([batch.groups for batch in batches])
    keys = np.concatenate([batch.keys for batch in batches])
    documents = [
        view for batch in batches for view in split_documents(batch.tokens, batch.lengths)
    ]
    order: list[int] = np.lexsort((keys, groups)).tolist()
    ids = [one.encode() for batch in batches for one in batch.ids]
    id_lengths = np.array([len(ids[p]) if ids else 0 for p in order], dtype=np.int64)
    present, starts = np.unique(groups[order], return_index=True)
    index = (
        np.array([present.size, lengths.size, bool(ids)]),
        present,
        np.append(starts, lengths.size),
        keys[order],
        _ends(lengths[order]),
        _ends(id_lengths),
    )
    tokens = (np.ascontiguousarray(documents[p], dtype=dtype).data for p in order)
    words = (array.astype("<i8" if array.dtype.kind == "i" else "<u8").data for array in index)
    checksum = _write(_tokens(prefix), tokens, 0)
    checksum = _write(_ids(prefix), (ids[p] for p in order) if ids else (), checksum)
    return _write(_index(prefix), words, checksum)


def run_checksum(prefix: Path) -> int | None:
    """Return the checksum of a run's files, None if one is missing."""
    checksum = 0
    for path in (_tokens(prefix), _ids(prefix), _index(prefix)):
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    checksum = zlib.crc32(block, checksum)
        except FileNotFoundError:
            return None
    return checksum


def _write(path: Path, parts: Iterable[bytes | memoryview], checksum: int) -> int:
    """Write a file of a run; return the updated checksum."""
    with atomic_write(path, durable=False) as file:
        for part in parts:
            file.write(part)
            checksum = zlib.crc32(part, checksum)
    return checksum


@final
class RunReader:
    """Reads a run from disk: its list of groups when opened, the rest on demand.

    Args:
        prefix: Path of the files without suffix.
        dtype: Type of the tokens.
        domains: Global index of each of its domains, ascending; None: identical.

    Attributes:
        groups: Its groups, ascending, shape ``(g,)``.
    """

    def __init__(self, prefix: Path, dtype: TokenType, *, domains: IntArray | None) -> None:
        self._prefix = prefix
        self._dtype = dtype
        words = np.memmap(_index(prefix), dtype="<i8", mode="r")
        g, n, has_ids = (int(number) for number in words[:3])
        cuts = np.cumsum((3, g, g + 1, n, n + 1, n + 1)).tolist()
        self._has_ids = bool(has_ids)
        self.groups: IntArray = words[cuts[0] : cuts[1]]
        if domains is not None:
            splits, numbers = divide_groups(self.groups)
            self.groups = group_numbers(splits, domains[numbers])
        self._starts: IntArray = words[cuts[1] : cuts[2]]
        self._keys: KeyArray = words[cuts[2] : cuts[3]].view("<u8")
        self._ends: IntArray = words[cuts[3] : cuts[4]]
        self._id_ends: IntArray = words[cuts[4] : cuts[5]]

    @property
    def num_documents(self) -> IntArray:
        """Number of documents in each of its groups, shape ``(g,)``."""
        return np.diff(self._starts)

    @property
    def num_tokens(self) -> IntArray:
        """Number of tokens in each of its groups, shape ``(g,)``."""
        return np.diff(self._ends[self._starts])

    def between(self, first: SortPosition, last: SortPosition) -> TokenizedDocuments:
        """Return the documents between two positions, in order."""
        begin, end = self._position(first), self._position(last)
        ends = np.array(self._ends[begin : end + 1])
        lengths = np.diff(ends)
        size = int(ends[-1] - ends[0])
        tokens = np.fromfile(
            _tokens(self._prefix), self._dtype, size, offset=int(ends[0]) * self._dtype.itemsize
        )
        places = np.searchsorted(self._starts, np.arange(begin, end), side="right") - 1
        keys = np.array(self._keys[begin:end])
        return TokenizedDocuments(
            tokens, lengths, self.groups[places], keys, self._read_ids(begin, end)
        )

    def _position(self, point: SortPosition) -> int:
        """Return the number of documents before a position."""
        group = (point.split << SPLIT_SHIFT) + point.domain
        place = int(np.searchsorted(self.groups, group))
        begin = int(self._starts[place])
        if place == self.groups.size or self.groups[place] != group:
            return begin
        keys = self._keys[begin : self._starts[place + 1]]
        return begin + int(np.searchsorted(keys, np.uint64(point.key)))

    def _read_ids(self, begin: int, end: int) -> list[str]:
        ends = np.array(self._id_ends[begin : end + 1])
        if not self._has_ids:
            return []
        with _ids(self._prefix).open("rb") as file:
            file.seek(ends[0])
            content = file.read(ends[-1] - ends[0])
        ends -= ends[0]
        return [content[a:b].decode() for a, b in pairwise(ends.tolist())]


def group_numbers(splits: IntArray, domains: IntArray) -> IntArray:
    """Return group numbers, ordered by split, then by domain; domains are below 2^32."""
    return (splits << SPLIT_SHIFT) + domains


def divide_groups(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Return the splits and domains of group numbers."""
    splits = groups >> SPLIT_SHIFT
    return splits, groups - (splits << SPLIT_SHIFT)


def split_documents(tokens: TokenArray, lengths: IntArray) -> list[TokenArray]:
    """Return each document's tokens, as views."""
    ends = np.cumsum(lengths).tolist()
    return [tokens[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)]


def _ends(lengths: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(lengths)))


def _tokens(prefix: Path) -> Path:
    return prefix.with_suffix(".tokens")


def _index(prefix: Path) -> Path:
    return prefix.with_suffix(".index")


def _ids(prefix: Path) -> Path:
    return prefix.with_suffix(".ids")


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """An invalid record with its location.

    Attributes:
        file: The file.
        line: Its line, or row in parquet, from 1.
        reason: What was expected and what was found.
    """

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        """Return it in the format of error messages."""
        return f"{self.file}:{self.line}: {self.reason}"


def find_rejects(
    tasks: Sequence[Task], records: Mapping[int, TaskRecord], work_folder: WorkFolder
) -> Iterator[RejectedRecord]:
    """Yield the invalid records of all finished tasks, in the order of the corpus.

    Args:
        tasks: All tasks.
        records: The records of finished tasks, by number.
        work_folder: The build's work folder.
    """
    before: int | None = 0  # lines of the file before the part; None: not counted yet
    for task in tasks:
        record = records.get(task.number)
        rejected = [] if record is None else list(work_folder.rejected(task.number))
        for number, part in enumerate(task.parts):
            if part.span.start == 0 or find_format(part.span.file) is Format.PARQUET:
                before = 0  # parquet rows are already numbered within the file
            for one in rejected:
                if one.part == number:
                    before = _count_lines(part) if before is None else before
                    yield RejectedRecord(part.span.file, before + one.line, one.reason)
            lines = None if record is None else record.lines[number]
            before = None if before is None or lines is None else before + lines


def write_rejects(path: Path, rejects: Iterator[RejectedRecord]) -> None:
    """Write invalid records, one JSON object with ``file``, ``line`` and ``reason`` per line.

    Raises:
        OSError: If writing fails.
    """
    with atomic_write(path) as file:
        for one in rejects:
            fields = {"file": str(one.file), "line": one.line, "reason": one.reason}
            file.write(json.dumps(fields).encode() + b"\n")


def _count_lines(part: FilePart) -> int:
    """Return the number of lines of a plain file before a part."""
    count, remaining = 1, part.span.start - 1
    with part.span.file.open("rb") as file:
        while block := file.read(min(BLOCK_BYTES, remaining)):
            count += block.count(b"\n")
            remaining -= len(block)
    return count


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
