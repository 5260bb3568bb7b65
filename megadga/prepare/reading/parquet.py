"""Reads records from parquet and Arrow files."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

from megadga.errors import ConfigError
from megadga.prepare.reading.dialogues import TOOLS_KEY, check_dialogue
from megadga.prepare.reading.formats import ARROW_FILE
from megadga.prepare.reading.lines import Span
from megadga.prepare.reading.records import (
    Content,
    Document,
    InvalidRecord,
    Keys,
    RecordError,
    SpanEnd,
    check_content,
    format_field_names,
    make_record,
)

# pyarrow is slow to import, optional, and has no types: imported on first use, and Any.

MESSAGES = "a list of messages"
BUFFER_BYTES = 1 << 20
BATCH_BYTES = 1 << 22
BATCH_ROWS = 1024  # additional limit, as repeated texts make rows look small


def measure_row_groups(file: Path) -> list[int]:
    """Return the uncompressed size of each row group of a file.

    Raises:
        ConfigError: If the file cannot be read or is damaged, or pyarrow is missing.
    """
    with _opened(file) as parquet:
        # Not the compressed sizes: reading them crashes the process on some damaged files.
        sizes = [group.total_byte_size for group in _row_groups(parquet)]
    if min(sizes, default=0) < 0:
        raise ConfigError(
            f"{file}: expected whole parquet, found a row group of {min(sizes)} bytes"
        )
    return sizes


def iterate_rows(span: Span, keys: Keys) -> Iterator[Document | InvalidRecord | SpanEnd]:
    """Yield the records of a span of a parquet file, then a ``SpanEnd``.

    Holds a few megabytes of the required columns in memory.

    Raises:
        ConfigError: If the file cannot be read or is damaged, a column is missing or of another
            type, or pyarrow is missing.
    """
    with _opened(span.file) as parquet:
        counts = [group.num_rows for group in _row_groups(parquet)]
        first, num_rows = sum(counts[: span.start]), sum(counts[span.start : span.stop])
        counted = number = 0
        for number, values in enumerate(_iterate_values(parquet, span, keys), start=1):
            done = span.input_bytes * number // max(num_rows, number)
            moved, counted = done - counted, done
            yield make_record(
                _check_row,
                values,
                keys,
                position=first + number - 1,
                line=first + number,
                input_bytes=moved,
            )
        if number != num_rows:
            raise ConfigError(f"{span.file}: expected {num_rows} rows, found {number}")
        yield SpanEnd(number, span.input_bytes - counted)


END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def iterate_arrow(span: Span, keys: Keys) -> Iterator[Document | InvalidRecord | SpanEnd]:
    """Yield the records of an Arrow file or stream, as ``datasets`` writes it, then a ``SpanEnd``.

    Holds a batch of rows in memory.

    Raises:
        ConfigError: If the file cannot be read or is damaged, a column is missing or of another
            type, or pyarrow is missing.
    """
    arrow, ipc = _import_pyarrow(span.file, "pyarrow.ipc")
    counted = number = 0
    with _arrow_errors(arrow, span.file, "arrow"), arrow.OSFile(str(span.file)) as source:
        columns: _Columns | None = None
        for schema, batch in _arrow_batches(source, ipc):
            batch.validate(full=True)  # offsets beyond a buffer would be followed
            columns = columns or _find_columns(schema, span, keys)
            for values in columns.read(batch):
                number += 1
                moved, counted = max(source.tell() - counted, 0), max(source.tell(), counted)
                yield make_record(
                    _check_row,
                    values,
                    keys,
                    position=number - 1,
                    line=number,
                    input_bytes=moved,
                )
    yield SpanEnd(number, span.input_bytes - counted)


def _arrow_batches(source: Any, ipc: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the schema and each batch of rows."""
    if source.read(len(ARROW_FILE)) == ARROW_FILE:
        source.seek(0)
        reader = ipc.open_file(source)  # its footer is at the end
        for index in range(reader.num_record_batches):
            yield reader.schema, reader.get_batch(index)
        return
    source.seek(max(source.size() - len(END_OF_STREAM), 0))
    if source.read() != END_OF_STREAM:  # a stream may be cut between two batches unnoticed
        raise ValueError("no end of the stream")
    source.seek(0)
    reader = ipc.open_stream(source)
    for batch in reader:
        yield reader.schema, batch


@dataclass(frozen=True, slots=True)
class _Column:
    """A column, or a field of a struct column."""

    path: tuple[str, ...]
    is_dictionary: bool
    is_text: bool = False

    def read(self, batch: Any) -> list[object]:
        """Return the column's values, text as bytes, as arrow does not validate UTF-8."""
        array = batch.column(self.path[0])
        for name in self.path[1:]:
            array = array.flatten()[array.type.get_field_index(name)]
        if self.is_dictionary:
            array = array.dictionary_decode()
        return (array.cast("large_binary") if self.is_text else array).to_pylist()


def _iterate_values(
    parquet: Any, span: Span, keys: Keys
) -> Iterator[tuple[object, object, object]]:
    """Yield text, id and domain of each row of the span."""
    columns = _find_columns(parquet.schema_arrow, span, keys)
    for index, group in list(enumerate(_row_groups(parquet)))[span.start : span.stop]:
        batches = parquet.iter_batches(
            batch_size=_batch_rows(group),
            row_groups=[index],
            columns=columns.names,
            use_threads=False,
        )
        for batch in batches:
            yield from columns.read(batch)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of text, id and domain; the last two are None if they are not read."""

    text: _Column
    id: _Column | None
    domain: _Column | None

    @property
    def names(self) -> list[str]:
        """Their names, nested ones after the struct's."""
        columns = (self.text, self.id, self.domain)
        return list(dict.fromkeys(".".join(column.path) for column in columns if column))

    def read(self, batch: Any) -> Iterator[tuple[object, object, object]]:
        """Yield text, id and domain of each row of a batch."""
        yield from zip(
            self.text.read(batch),
            self.id.read(batch) if self.id else repeat(None),
            self.domain.read(batch) if self.domain else repeat(None),
            strict=False,
        )


def _find_columns(schema: Any, span: Span, keys: Keys) -> _Columns:
    if keys.chat and TOOLS_KEY in schema.names:
        raise ConfigError(
            f"{span.file}: {TOOLS_KEY}: expected messages alone in a table, found descriptions of "
            "tools beside them: write JSON lines"
        )
    text = _locate(schema, keys.text, MESSAGES if keys.chat else "a string", span.file)
    id_, domain = (
        None if key is None else _locate(schema, key, expected, span.file)
        for key, expected in ((keys.id, "a string or an integer"), (keys.domain, "a string"))
    )
    return _Columns(text, id_, domain)


def _row_groups(parquet: Any) -> list[Any]:
    metadata = parquet.metadata
    return [metadata.row_group(index) for index in range(metadata.num_row_groups)]


def _batch_rows(group: Any) -> int:
    row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))


def _locate(schema: Any, key: str, expected: str, file: Path) -> _Column:
    types: Any = import_module("pyarrow.types")
    path = (key,) if key in schema.names else tuple(key.split("."))
    kind = schema  # it is asked for its fields as a struct is
    for depth, name in enumerate(path):
        place = ".".join(path[:depth])
        if place and not types.is_struct(kind):
            found = format_field_names([str(kind)])
            raise ConfigError(f"{file}: {key}: expected a struct at {place}, found {found}")
        index = kind.get_field_index(name)  # -1: none, or several
        if index < 0:
            found = format_field_names(field.name for field in kind)
            within = f" in {place}" if place else ""
            raise ConfigError(f"{file}: {key}: expected one such column, found {found}{within}")
        kind = kind.field(index).type
    if expected == MESSAGES:
        if not (types.is_list(kind) or types.is_large_list(kind)):
            found = format_field_names([str(kind)])
            raise ConfigError(f"{file}: {key}: expected {expected}, found {found}")
        return _Column(path, is_dictionary=False)
    is_dictionary = types.is_dictionary(kind)
    value = kind.value_type if is_dictionary else kind
    is_text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    is_integer = types.is_integer(value) and "integer" in expected
    if not (is_text or is_integer or types.is_null(value)):  # null: no row has a value
        raise ConfigError(
            f"{file}: {key}: expected {expected}, found {format_field_names([str(kind)])}"
        )
    return _Column(path, is_dictionary, is_text)


def _check_row(values: tuple[object, object, object], keys: Keys) -> Content:
    text, id_, domain = values
    check = check_dialogue if keys.chat else check_content
    return check(
        _decode(text, keys.text), _decode(id_, keys.id), _decode(domain, keys.domain), keys
    )


def _decode(value: object, key: str | None) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{key}: expected UTF-8 text, found {error}") from error


@contextmanager
def _opened(file: Path) -> Generator[Any]:
    """Open a parquet file; add its name to arrow's errors."""
    arrow, reader = _import_pyarrow(file, "pyarrow.parquet")
    # Without buffering, arrow reads whole columns of a row group at once.
    with (
        _arrow_errors(arrow, file, "parquet"),
        reader.ParquetFile(
            arrow.OSFile(str(file)),
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as parquet,
    ):
        yield parquet


@contextmanager
def _arrow_errors(arrow: Any, file: Path, content: str) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())  # arrow explains itself in several lines
        raise ConfigError(f"{file}: expected whole {content}, found {reason}") from error


def _import_pyarrow(file: Path, module: str) -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{file}: expected the package pyarrow to read it with, found {error}: "
            'install "megadga[data]"'
        ) from error
