"""Files of any format to documents. Knows which reader a format calls for, and none itself."""

from collections.abc import Iterator
from pathlib import Path

from megadga.errors import ConfigError
from megadga.prepare.reading.compression import open_gzip, open_zstd
from megadga.prepare.reading.formats import Format, find_format, named_format
from megadga.prepare.reading.inputs import training_files
from megadga.prepare.reading.lines import iterate_compressed, iterate_plain
from megadga.prepare.reading.parquet import iterate_rows, measure_row_groups
from megadga.prepare.reading.records import (
    Document,
    Keys,
    Reject,
    SpanEnd,
    make_record,
    parse_file,
)
from megadga.prepare.reading.spans import Span, cut_bytes, cut_groups

TABLE = "expected text or JSON lines, found a table by its name: write one JSON object a line"


def iterate_records(span: Span, keys: Keys) -> Iterator[Document | Reject | SpanEnd]:
    """Yield the records of a span in order, good and bad ones, and its end as the last item.

    - JSON lines, plain, gzip or zstd: one object a line; lines of white space are no records. A
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

    Raises:
        ConfigError: If the file cannot be read or is damaged, in which case nothing that follows
            can be trusted; names the file, and the line if there is one. If the columns of a
            parquet file are not those that are needed, or a package that reads it is missing.
    """
    try:
        match find_format(span.file):
            case Format.LINES:
                yield from iterate_plain(span, keys)
            case Format.LINES_GZIP:
                yield from iterate_compressed(span, keys, open_gzip)
            case Format.LINES_ZSTD:
                yield from iterate_compressed(span, keys, open_zstd)
            case Format.PARQUET:
                yield from iterate_rows(span, keys)
            case Format.TABLE:
                yield Reject(0, 1, TABLE, empty=False, input_bytes=span.input_bytes)
                yield SpanEnd(num_lines=1, input_bytes=0)
            case Format.WHOLE:
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


def iterate_documents(path: Path, *, text_key: str = "text") -> Iterator[Document]:
    """Yield the documents of a file, or of a folder's files for training, in order.

    A record without text is a document without: its ``text`` is empty.

    Args:
        path: The file or folder.
        text_key: Where records have their text; see ``Keys``.

    Raises:
        ConfigError: If a record is bad for another reason, or a file cannot be read; names file
            and line. If the files of a folder contradict each other.
    """
    keys = Keys(text_key)
    for file in training_files(path):
        for record in iterate_records(Span(file, 0, None, _file_bytes(file)), keys):
            match record:
                case Document():
                    yield record
                case Reject(empty=True):
                    yield Document(
                        "", record.position, record.line, None, None, record.input_bytes
                    )
                case Reject():
                    raise ConfigError(f"{file}:{record.line}: {record.reason}")
                case SpanEnd():
                    pass


def count_input_bytes(path: Path) -> int:
    """Return the bytes on the disk of a file, or of a folder's files for training.

    Raises:
        ConfigError: If the path does not exist, or a file cannot be read.
    """
    return sum(map(_file_bytes, training_files(path)))


def _iterate_whole(file: Path, keys: Keys) -> Iterator[Document | Reject | SpanEnd]:
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
