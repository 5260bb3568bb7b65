"""Reads records from parquet files."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

from megadga.errors import ConfigError
from megadga.prepare.reading.dialogues import TOOLS_KEY, check_dialogue
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
    schema = parquet.schema_arrow
    if keys.chat and TOOLS_KEY in schema.names:
        raise ConfigError(
            f"{span.file}: {TOOLS_KEY}: expected messages alone in parquet, found descriptions of "
            "tools beside them: write JSON lines"
        )
    text = _locate(schema, keys.text, MESSAGES if keys.chat else "a string", span.file)
    id_, domain = (
        None if key is None else _locate(schema, key, expected, span.file)
        for key, expected in ((keys.id, "a string or an integer"), (keys.domain, "a string"))
    )
    names = [".".join(column.path) for column in (text, id_, domain) if column]
    for index, group in list(enumerate(_row_groups(parquet)))[span.start : span.stop]:
        batches = parquet.iter_batches(
            batch_size=_batch_rows(group),
            row_groups=[index],
            columns=list(dict.fromkeys(names)),
            use_threads=False,
        )
        for batch in batches:
            yield from zip(
                text.read(batch),
                id_.read(batch) if id_ else repeat(None),
                domain.read(batch) if domain else repeat(None),
                strict=False,
            )


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
    arrow, reader = _import_pyarrow(file)
    try:
        # Without buffering, arrow reads whole columns of a row group at once.
        with reader.ParquetFile(
            arrow.OSFile(str(file)),
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as parquet:
            yield parquet
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())  # arrow explains itself in several lines
        raise ConfigError(f"{file}: expected whole parquet, found {reason}") from error


def _import_pyarrow(file: Path) -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            f"{file}: expected the package pyarrow to read it with, found {error}: "
            'install "megadga[data]"'
        ) from error
