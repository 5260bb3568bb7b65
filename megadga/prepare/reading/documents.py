"""Reads documents, samples and texts from files of any format."""

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
from megadga.prepare.reading.parquet import iterate_arrow, iterate_rows, measure_row_groups
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
    """Yield the valid and invalid records of a span in order, then a ``SpanEnd``.

    - JSON lines, plain, gzip or zstd: one object per line; blank lines are ignored. A span of a
      plain file contains the lines that begin in it.
    - Parquet and Arrow: one record per row.
    - Any other file is one document in UTF-8, or an invalid record if it contains records in an
      unsupported format: an array, objects over several lines, a table.

    The format is determined by the file's name or else by its beginning; see ``find_format``.

    Over all spans of a file, ``input_bytes`` sum to the file's size, and positions and texts do
    not depend on the spans.

    Args:
        span: A result of ``split_file``.
        keys: Keys of text, id and domain.
        max_record_bytes: Size limit of a line, or of a file that is one document; no more is held
            in memory. None: unlimited. Rows of parquet and Arrow are not limited.

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
            case Format.ARROW:
                yield from iterate_arrow(span, keys)
            case Format.TABLE:
                yield InvalidRecord(0, 1, TABLE, empty=False, input_bytes=span.input_bytes)
                yield SpanEnd(num_lines=1, input_bytes=0)
            case Format.SINGLE_DOCUMENT:
                check_size(span.file, "", _file_bytes(span.file), max_record_bytes)
                yield from _iterate_whole(span.file, keys)
    except OSError as error:
        raise _unreadable(span.file, error) from error


def split_file(path: Path, *, span_bytes: int) -> tuple[Span, ...]:
    """Divide a file into spans of about ``span_bytes`` where possible; at least one, in order.

    Plain JSON lines are divided anywhere, parquet between row groups; other files are one span.
    Reads only the beginning of the file or its row group metadata.

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
        return (Span(path, 0, None, num_bytes),)  # for any format
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

    Records without text, and other invalid records, which are counted, are documents with empty
    ``text``, so that ``input_bytes`` add up.

    Args:
        path: The file or folder.
        text_key: Key of the text; see ``Keys``.
        bad: Counts invalid records; None: the first one is an error.

    Raises:
        ConfigError: If too many records are invalid, or a file cannot be read; names file and
            line. If the files of a folder are inconsistent.
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
    """Return the size of a file, or of a folder's training files.

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
"""Priorities per random generator; one generator per document would be slow."""


@dataclass(frozen=True, slots=True)
class TextSample:
    """A sample of documents, and the size of the stream it was drawn from.

    Attributes:
        texts: The sample, in stream order.
        num_characters: Characters of the whole stream.
    """

    texts: tuple[str, ...]
    num_characters: int


def sample_texts(texts: Iterable[str], *, max_characters: int, seed: int) -> TextSample:
    """Return a uniform sample of texts, at least one if there is any.

    Args:
        texts: Read to the end; only the sample is held in memory.
        max_characters: Maximum characters of the sample.
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
    """Yield an endless stream of uniform numbers in [0, 1)."""
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
    """Yield the texts of all documents with text, file by file.

    Args:
        paths: Files and folders of documents.
        text_key: Where the objects of JSON lines have their text.
        bad: Counts invalid records; call its ``check_all`` at the end. None: the first one is an
            error.
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
    """Return the bytes on disk that ``read_texts`` will read.

    Raises:
        ConfigError: If a path does not exist.
    """
    return sum(map(count_input_bytes, paths))


def chunk_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield consecutive texts in chunks of at least ``CHUNK_CHARACTERS``, except the last."""
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
