"""Reads a run's metrics file, finished or still growing. Knows no metric by name."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from megadga.errors import ConfigError

Record = dict[str, Any]


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
        found: object = json.loads(line)
    except json.JSONDecodeError:
        found = None
    record = cast("Record", found) if isinstance(found, dict) else {}
    if not {"type", "step"} <= record.keys():
        raise ConfigError(f"{place}: expected an object with type and step, found {line[:60]!r}")
    return record


def averaged_weights(update: Record, names: Iterable[str] | None = None) -> dict[str, float]:
    """Return what an update's mixture averages to, by name.

    Of a rule over basis distributions that is the domains' weights, and the basis' own.

    Args:
        update: A record of type ``update``.
        names: Whose weights; None: the domains', or the basis' where there are too many domains
            for the record.
    """
    of_domains = update.get("averaged_weights")
    of_basis = update.get("basis_averaged_weights")
    if of_domains is None or (of_basis is not None and names and set(names) == of_basis.keys()):
        return cast("dict[str, float]", of_basis)
    return cast("dict[str, float]", of_domains)
