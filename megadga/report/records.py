"""Reads the records in a run's metrics file, also while the run is in progress."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

from megadga.data.files import parse_strictly
from megadga.errors import ConfigError
from megadga.section import format_value

Record = dict[str, Any]


_LARGEST = 1e300
"""Maximum magnitude of a number, so that axis limits do not overflow."""


@final
@dataclass(frozen=True, eq=False)
class RunRecords:
    """What a run has logged.

    Attributes:
        path: The file, for messages.
        records: In the order of the file, each with ``type`` and ``step``.
    """

    path: Path
    records: tuple[Record, ...]

    def of(self, kind: str) -> list[Record]:
        """Return the records of one type, in the order of the file.

        Args:
            kind: ``train``, ``update``, ``update_summary``, ``evaluation``, ``checkpoint``,
                ``sampler`` or ``event``.
        """
        return [record for record in self.records if record["type"] == kind]

    def events(self, event: str) -> list[Record]:
        """Return the events of one kind, in the order of the file."""
        return [record for record in self.of("event") if record.get("event") == event]


def read_metrics(path: Path) -> RunRecords:
    """Return the records in a run's metrics file.

    An incomplete last line, which is being written, is ignored.

    Args:
        path: A run's ``metrics.jsonl``.

    Raises:
        ConfigError: If the file cannot be read, or a line is not a record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    *lines, _ = text.split("\n")
    places = (f"{path}:{number}" for number in range(1, len(lines) + 1))
    return RunRecords(path, tuple(map(_parse, lines, places)))


def read_last(path: Path, num_bytes: int) -> tuple[Record, ...]:
    """Return the records of the last bytes of a run's metrics file, complete ones alone.

    Raises:
        ConfigError: If the file cannot be read, or a line is not a record.
    """
    try:
        with path.open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(begin)
            lines = file.read().split(b"\n")[min(begin, 1) : -1]
    except OSError as error:
        raise _unreadable(path, error) from None
    return tuple(_parse(line.decode(), f"{path}: last records") for line in lines)


def read_events(path: Path) -> tuple[Record, ...]:
    """Return the events in a run's metrics file, without parsing its other lines.

    Raises:
        ConfigError: If the file cannot be read, or the line of an event is not a record.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in file if line.startswith(b'{"type": "event"')]
    except OSError as error:
        raise _unreadable(path, error) from None
    whole = (line.decode() for line in lines if line.endswith(b"\n"))
    return tuple(_parse(line, f"{path}: an event") for line in whole)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: expected a run's metrics, found {error}")


def _parse(line: str, place: str) -> Record:
    try:
        found: object = parse_strictly(line)
    except ValueError:
        found = None
    match found:
        case {"type": str(), "step": int(step)} if 0 <= step < 2**63 and step is not True:
            return section(found)
        case _:
            raise ConfigError(
                f"{place}: expected an object with type and step, found {line[:60]!r}"
            )


def numbers_by_name(metrics: Path, record: Record, *keys: str) -> dict[str, float]:
    """Return the numbers by name at a key, or nested keys, of a record; at least one.

    A number that was not finite when it was logged is NaN.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    value: object = record
    for key in keys:
        value = section(value).get(key)
    numbers = section(value)
    if not numbers or not all(map(_is_number, numbers.values())):
        raise unexpected(metrics, record, ".".join(keys), "a number for each name", value)
    return {name: math.nan if each is None else float(each) for name, each in numbers.items()}


def names_at(metrics: Path, record: Record, key: str) -> tuple[str, ...]:
    """Return the names at a key of a record; at least one.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    if names := tuple(section(record.get(key))):
        return names
    raise unexpected(metrics, record, key, "something for each name", record.get(key))


def counts_by_name(metrics: Path, record: Record, key: str) -> dict[str, int]:
    """Return the counts by name at a key of a record.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    numbers = numbers_by_name(metrics, record, key)
    if not all(value >= 0.0 and value.is_integer() for value in numbers.values()):
        raise unexpected(metrics, record, key, "a count for each name", record[key])
    return {name: int(value) for name, value in numbers.items()}


def number_at(metrics: Path, record: Record, key: str) -> float:
    """Return the number at a key of a record; NaN if it was not finite.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    value: object = record.get(key, "nothing")
    if not _is_number(value):
        raise unexpected(metrics, record, key, "a number", value)
    return math.nan if value is None else float(cast("float", value))


def section(value: object) -> Record:
    """Return a value as a mapping; anything else is an empty one."""
    return cast("Record", value) if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    """Return whether a JSON value is a number, or null, which stands for non-finite numbers."""
    if value is None:
        return True
    return isinstance(value, int | float) and value is not True and abs(value) <= _LARGEST


def unexpected(
    metrics: Path, record: Record, key: str, expected: str, found: object
) -> ConfigError:
    """Return an error about the value at a key of a record."""
    place = f"{metrics}: {record['type']} of step {record['step']}: {key}"
    return ConfigError(f"{place}: expected {expected}, found {format_value(found)}")
