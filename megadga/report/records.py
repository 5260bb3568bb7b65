"""Reads a run's metrics file, finished or still growing. Knows no metric by name."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from megadga.config.places import shown
from megadga.errors import ConfigError
from megadga.shards.strict_json import parse_strictly

Record = dict[str, Any]
_LARGEST = 1e300
"""Of a number, without its sign: pictures need some room around."""
_ROUNDING = 1e-6


def read_records(metrics: Path, kind: str) -> list[Record]:
    """Return the records of one type, in the order of the file.

    A last line without its end is being written at this moment, and is left out.

    Args:
        metrics: A run's ``metrics.jsonl``.
        kind: ``train``, ``update``, ``evaluation`` or ``event``.

    Raises:
        ConfigError: If the file cannot be read, or a line is not a record.
    """
    try:
        text = metrics.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{metrics}: expected a run's metrics, found {error}") from None
    *lines, _ = text.split("\n")
    records = [_parse(line, f"{metrics}:{number}") for number, line in enumerate(lines, start=1)]
    return [record for record in records if record["type"] == kind]


def _parse(line: str, place: str) -> Record:
    try:
        found: object = parse_strictly(line)
    except ValueError:
        found = None
    match found:
        case {"type": str(), "step": int(step)} if 0 <= step < 2**63 and step is not True:
            return _section(found)
        case _:
            raise ConfigError(
                f"{place}: expected an object with type and step, found {line[:60]!r}"
            )


def by_name(metrics: Path, record: Record, *keys: str) -> dict[str, float]:
    """Return what a record has at a key (or a key of a key): a number for each name, at least one.

    A number that was not finite when it was logged is NaN.

    Raises:
        ConfigError: If there is something else, or nothing.
    """
    value: object = record
    for key in keys:
        value = _section(value).get(key)
    numbers = _section(value)
    if not numbers or not all(map(_is_number, numbers.values())):
        raise _unexpected(metrics, record, ".".join(keys), "a number for each name", value)
    return {name: math.nan if each is None else float(each) for name, each in numbers.items()}


def names_at(metrics: Path, record: Record, key: str) -> tuple[str, ...]:
    """Return the names that a record has something for at a key, at least one.

    Raises:
        ConfigError: If there is something else, or nothing.
    """
    if names := tuple(_section(record.get(key))):
        return names
    raise _unexpected(metrics, record, key, "something for each name", record.get(key))


def counts_by_name(metrics: Path, record: Record, key: str) -> dict[str, int]:
    """Return what a record has at a key: a count for each name.

    Raises:
        ConfigError: If there is something else, or nothing.
    """
    numbers = by_name(metrics, record, key)
    if not all(value >= 0.0 and value.is_integer() for value in numbers.values()):
        raise _unexpected(metrics, record, key, "a count for each name", record[key])
    return {name: int(value) for name, value in numbers.items()}


def number(metrics: Path, record: Record, key: str) -> float:
    """Return the number that a record has at a key; NaN if it was not finite.

    Raises:
        ConfigError: If there is something else, or nothing.
    """
    value: object = record.get(key, "nothing")
    if not _is_number(value):
        raise _unexpected(metrics, record, key, "a number", value)
    return math.nan if value is None else float(cast("float", value))


def _section(value: object) -> Record:
    return cast("Record", value) if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    """Tell whether JSON has a number there, or null as it has no word for the others."""
    if value is None:
        return True
    return isinstance(value, int | float) and value is not True and abs(value) <= _LARGEST


def _unexpected(
    metrics: Path, record: Record, key: str, expected: str, found: object
) -> ConfigError:
    place = f"{metrics}: {record['type']} of step {record['step']}: {key}"
    return ConfigError(f"{place}: expected {expected}, found {shown(found)}")


def averaged_weights(
    metrics: Path, update: Record, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Return what an update's mixture averages to, by name.

    Of a rule over basis distributions that is the domains' weights, and the basis' own.

    Args:
        metrics: The file, for messages.
        update: A record of type ``update``.
        names: Whose weights; None: the domains', or the basis' where there are too many domains
            for the record.

    Raises:
        ConfigError: If there are none, or they are no weights.
    """
    of_domains, of_basis = update.get("averaged_weights"), update.get("basis_averaged_weights")
    key = "averaged_weights"
    if of_domains is None or (names and set(names) == {*_section(of_basis)}):
        key = key if of_basis is None else "basis_averaged_weights"
    weights = by_name(metrics, update, key)
    if not all(0.0 <= weight <= 1.0 + _ROUNDING for weight in weights.values()):
        raise _unexpected(metrics, update, key, "weights in [0, 1]", update[key])
    return weights
