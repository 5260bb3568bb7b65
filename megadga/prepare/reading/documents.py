"""Files of any format to documents, samples and texts."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from megadga.errors import ConfigError
from megadga.prepare.reading.formats import Format, find_format, named_format, open_gzip, open_zstd
from megadga.prepare.reading.inputs import training_files
from megadga.prepare.reading.lines import (
    Span,
    check_size,
    cut_bytes,
    cut_groups,
    iterate_compressed,
    iterate_plain,
)
from megadga.prepare.reading.parquet import iterate_rows, measure_row_groups
from megadga.prepare.reading.records import (
    BadRecords,
    Document,
    InvalidRecord,
    Keys,
    SpanEnd,
    make_record,
    parse_file,
)

TABLE = "expected text or JSON lines, found a table by its name: write one JSON object per line"


def iterate_records(
    span: Span, keys: Keys, *, max_record_bytes: int | None = None
) -> Iterator[Document | InvalidRecord | SpanEnd]:
    """Yield the records of a span in order, good and bad ones, and its end as the last item.

    - JSON lines, plain, gzip or zstd: one object per line; lines of white space are no records. A
      plain file's span has the lines that begin in it.
    - Parquet: one row each.
    - Any other file is one document, UTF-8, and a bad record if it holds records in another
      format: an array, objects over several lines, a table.

    What a file is follows from its name or else from its beginning; see ``find_format``.

    All that the spans of a file yield has the file's size as its sum of ``input_bytes``, and the
    same positions and texts wherever the file is cut.

    Args:
        span: One of those that ``split_file`` gives.
        keys: Where records have text, id and domain.
        max_record_bytes: Size limit of a line, or of a file that is one document; no more is held
            in memory. None: unlimited. Parquet rows are not limited.

    Raises:
        ConfigError: If the file cannot be read or is damaged, in which case nothing that follows
            can be trusted; names the file, and the line if there is one. If a record is larger
            than ``max_record_bytes``. If a parquet file lacks a required column, or the package
            that reads it is not installed.
    """
    try:
        match find_format(span.file):
            case Format.LINES:
                yield from iterate_plain(span, keys, max_record_bytes=max_record_bytes)
            case Format.LINES_GZIP:
                yield from iterate_compressed(
                    span, keys, open_gzip, max_record_bytes=max_record_bytes
                )
            case Format.LINES_ZSTD:
                yield from iterate_compressed(
                    span, keys, open_zstd, max_record_bytes=max_record_bytes
                )
            case Format.PARQUET:
                yield from iterate_rows(span, keys)
            case Format.TABLE:
                yield InvalidRecord(0, 1, TABLE, empty=False, input_bytes=span.input_bytes)
                yield SpanEnd(num_lines=1, input_bytes=0)
            case Format.SINGLE_DOCUMENT:
                check_size(span.file, "", _file_bytes(span.file), max_record_bytes)
                yield from _iterate_whole(span.file, keys)
    except OSError as error:
        raise _unreadable(span.file, error) from error


def split_file(path: Path, *, span_bytes: int) -> tuple[Span, ...]:
    """Return the spans of a file: at least one, in order, of about ``span_bytes`` where it can be.

    Plain JSON lines are cut anywhere and parquet between row groups; other files are one span. No
    more than a beginning is read: where to cut follows from the size of a file or its row groups.

    Args:
        path: The file.
        span_bytes: Bytes on the disk, at least 1.

    Raises:
        ConfigError: If the file cannot be read, or as parquet is damaged, or pyarrow is missing.
        ValueError: If ``span_bytes`` is below 1.
    """
    if span_bytes < 1:
        raise ValueError(f"span_bytes: expected at least 1, found {span_bytes}")
    num_bytes = _file_bytes(path)
    if named_format(path) is None and num_bytes <= span_bytes:
        return (Span(path, 0, None, num_bytes),)  # whatever it is
    try:
        found = find_format(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if found is Format.LINES:
        return tuple(cut_bytes(path, num_bytes=num_bytes, span_bytes=span_bytes))
    if found is Format.PARQUET:
        sizes = measure_row_groups(path)
        return tuple(cut_groups(path, sizes, num_bytes=num_bytes, span_bytes=span_bytes))
    return (Span(path, 0, None, num_bytes),)


def iterate_documents(
    path: Path, *, text_key: str = "text", bad: BadRecords | None = None
) -> Iterator[Document]:
    """Yield the documents of a file, or of a folder's files for training, in order.

    A record without text is a document without: its ``text`` is empty. One that is bad for another
    reason is left out, and is an empty document likewise, so that bytes add up.

    Args:
        path: The file or folder.
        text_key: Where records have their text; see ``Keys``.
        bad: Counts the bad records; None: the first is too many.

    Raises:
        ConfigError: If too many records are bad, or a file cannot be read; names file and line.
            If the files of a folder contradict each other.
    """
    keys, bad = Keys(text_key), bad or BadRecords()
    for file in training_files(path):
        for record in iterate_records(Span(file, 0, None, _file_bytes(file)), keys):
            match record:
                case Document():
                    bad.add_good()
                    yield record
                case InvalidRecord():
                    if record.empty:
                        bad.add_good()
                    else:
                        bad.add(file, record.line, record.reason)
                    yield Document(
                        "", record.position, record.line, None, None, record.input_bytes
                    )
                case SpanEnd():
                    pass


def count_input_bytes(path: Path) -> int:
    """Return the bytes on the disk of a file, or of a folder's files for training.

    Raises:
        ConfigError: If the path does not exist, or a file cannot be read.
    """
    return sum(map(_file_bytes, training_files(path)))


def _iterate_whole(file: Path, keys: Keys) -> Iterator[Document | InvalidRecord | SpanEnd]:
    content = file.read_bytes()
    yield make_record(parse_file, content, keys, position=0, line=1, input_bytes=len(content))
    yield SpanEnd(num_lines=1, input_bytes=0)


def _file_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{file}: expected a readable file, found {error}")


PRIORITIES = 4096
"""Drawn at a time: one generator a document would take longer than reading it."""


@dataclass(frozen=True, slots=True)
class TextSample:
    """Some documents, and the size of what they were drawn from.

    Attributes:
        texts: In the order of the stream.
        num_characters: Characters of the whole stream.
    """

    texts: tuple[str, ...]
    num_characters: int


def sample_texts(texts: Iterable[str], *, max_characters: int, seed: int) -> TextSample:
    """Return as many texts as there is room for, and one at least, if there is one.

    Args:
        texts: Read to the end; those of the sample alone are held in memory.
        max_characters: Of the sample.
        seed: At least 0.
    """
    kept: list[tuple[float, int, str]] = []  # a heap: the highest priority first
    num_kept = num_characters = 0
    for number, (text, priority) in enumerate(zip(texts, priorities(seed), strict=False)):
        heapq.heappush(kept, (-priority, number, text))
        num_kept += len(text)
        num_characters += len(text)
        while num_kept > max_characters and len(kept) > 1:
            num_kept -= len(heapq.heappop(kept)[2])
    ordered = sorted(kept, key=lambda entry: entry[1])
    return TextSample(tuple(text for _, _, text in ordered), num_characters)


def subsample(texts: Iterable[str], *, fraction: float, seed: int) -> Iterator[str]:
    """Yield the texts whose priority is below ``fraction``, each with that probability."""
    for text, priority in zip(texts, priorities(seed), strict=False):
        if priority < fraction:
            yield text


def priorities(seed: int) -> Iterator[float]:
    """Yield u_0, u_1, ... without end."""
    for block in count():
        yield from np.random.default_rng((seed, block)).random(PRIORITIES).tolist()


CHUNK_CHARACTERS = 1 << 20


def read_texts(
    paths: Sequence[Path],
    *,
    text_key: str = "text",
    bad: BadRecords | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[str]:
    """Yield the text of every document that has some, file after file.

    Args:
        paths: Files and folders of documents.
        text_key: Where the objects of JSON lines have their text.
        bad: Counts the bad records, and is to be asked at the end whether they are too many; None:
            the first is.
        progress: Called with the bytes of input read since the last call, ``count_bytes``
            in all.

    Raises:
        ConfigError: If an input cannot be read, or too many records are bad.
    """
    bad = bad or BadRecords()
    for path in paths:
        for document in iterate_documents(path, text_key=text_key, bad=bad):
            progress(document.input_bytes)
            if document.text:
                yield document.text


def count_bytes(paths: Iterable[Path]) -> int:
    """Return how many bytes on the disk ``read_texts`` will read.

    Raises:
        ConfigError: If a path does not exist.
    """
    return sum(map(count_input_bytes, paths))


def chunk_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield neighbouring texts together, a chunk closed once it has ``CHUNK_CHARACTERS``."""
    chunk: list[str] = []
    num_characters = 0
    for text in texts:
        chunk.append(text)
        num_characters += len(text)
        if num_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk
