"""Reads the records and weights in a metrics file, also while the run is in progress."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from megadga.arrays import FloatArray
from megadga.data.files import parse_strictly
from megadga.errors import ConfigError
from megadga.mixers.rule import WeightHistory
from megadga.section import format_value

Record = dict[str, Any]


_LARGEST = 1e300
"""Maximum magnitude of a number, so that axis limits do not overflow."""


_ROUNDING = 1e-6


def read_records(metrics: Path, kind: str) -> list[Record]:
    """Return the records of one type, in the order of the file.

    An incomplete last line, which is being written, is ignored.

    Args:
        metrics: A run's ``metrics.jsonl``.
        kind: ``train``, ``update``, ``update_summary``, ``evaluation`` or ``event``.

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


def numbers_by_name(metrics: Path, record: Record, *keys: str) -> dict[str, float]:
    """Return the numbers by name at a key, or nested keys, of a record; at least one.

    A number that was not finite when it was logged is NaN.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    value: object = record
    for key in keys:
        value = _section(value).get(key)
    numbers = _section(value)
    if not numbers or not all(map(_is_number, numbers.values())):
        raise _unexpected(metrics, record, ".".join(keys), "a number for each name", value)
    return {name: math.nan if each is None else float(each) for name, each in numbers.items()}


def names_at(metrics: Path, record: Record, key: str) -> tuple[str, ...]:
    """Return the names at a key of a record; at least one.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    if names := tuple(_section(record.get(key))):
        return names
    raise _unexpected(metrics, record, key, "something for each name", record.get(key))


def counts_by_name(metrics: Path, record: Record, key: str) -> dict[str, int]:
    """Return the counts by name at a key of a record.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    numbers = numbers_by_name(metrics, record, key)
    if not all(value >= 0.0 and value.is_integer() for value in numbers.values()):
        raise _unexpected(metrics, record, key, "a count for each name", record[key])
    return {name: int(value) for name, value in numbers.items()}


def number_at(metrics: Path, record: Record, key: str) -> float:
    """Return the number at a key of a record; NaN if it was not finite.

    Raises:
        ConfigError: If the value is missing or has another form.
    """
    value: object = record.get(key, "nothing")
    if not _is_number(value):
        raise _unexpected(metrics, record, key, "a number", value)
    return math.nan if value is None else float(cast("float", value))


def _section(value: object) -> Record:
    return cast("Record", value) if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    """Return whether a JSON value is a number, or null, which stands for non-finite numbers."""
    if value is None:
        return True
    return isinstance(value, int | float) and value is not True and abs(value) <= _LARGEST


def _unexpected(
    metrics: Path, record: Record, key: str, expected: str, found: object
) -> ConfigError:
    place = f"{metrics}: {record['type']} of step {record['step']}: {key}"
    return ConfigError(f"{place}: expected {expected}, found {format_value(found)}")


def averaged_weights(
    metrics: Path, update: Record, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Return an update's averaged weights by name, over the domains or the basis.

    Args:
        metrics: The file, for messages.
        update: A record of type ``update``.
        names: Names of the weights to return; None: the domains', or the basis' if there are too
            many domains to log.

    Raises:
        ConfigError: If there are none, or they are not in [0, 1].
    """
    of_domains, of_basis = update.get("averaged_weights"), update.get("basis_averaged_weights")
    key = "averaged_weights"
    if of_domains is None or (names and set(names) == {*_section(of_basis)}):
        key = key if of_basis is None else "basis_averaged_weights"
    weights = numbers_by_name(metrics, update, key)
    if not all(0.0 <= weight <= 1.0 + _ROUNDING for weight in weights.values()):
        raise _unexpected(metrics, update, key, "weights in [0, 1]", update[key])
    return weights


START = "start"
"""The event with the weights at step 0."""


SUMMARY = "update_summary"
"""Type of the records of updates that are logged without values by domain."""


REVISION = "revision"
"""The event after which a run has other domains."""


def is_revised(metrics: Path) -> bool:
    """Tell whether the domains of a run have changed during it."""
    events = read_records(metrics, "event")
    return any(event.get("event") == REVISION for event in events)


def read_weights_from_start(metrics: Path) -> WeightHistory:
    """Return the weights in a run's metrics from step 0 on, constant if there are no updates.

    Metrics of older runs without an event ``start`` begin at the first update.

    Raises:
        ConfigError: If there are neither, or the domains change.
    """
    events = read_records(metrics, "event")
    start = next((event for event in events if event.get("event") == START), None)
    if start is None:
        return read_weights(metrics)
    names = tuple(averaged_weights(metrics, start))
    first = np.array([list(averaged_weights(metrics, start).values())])
    if not read_records(metrics, "update"):
        steps = [record["step"] for record in read_records(metrics, "train")]
        last = max(steps, default=0)
        return WeightHistory(names, np.array([0, last], dtype=np.int64), np.repeat(first, 2, 0))
    updates = read_weights(metrics)
    if updates.names != names and is_revised(metrics):
        every = tuple(dict.fromkeys((*names, *updates.names)))
        parts = (_over(every, names, first), _over(every, updates.names, updates.weights))
        return WeightHistory(every, np.append(0, updates.steps), np.concatenate(parts))
    if updates.names != names:
        raise ConfigError(
            f"{metrics}: event {START}: expected the domains {', '.join(updates.names)}, "
            f"found {', '.join(names)}"
        )
    return WeightHistory(
        names,
        np.concatenate([[0], updates.steps]),
        np.concatenate([first, updates.weights]),
    )


def read_all_weights(metrics: Path) -> WeightHistory:
    """Return the weights in the updates of a run's metrics, of which none was logged without.

    Raises:
        ConfigError: As ``read_weights`` does, or if there is a summary of an update.
    """
    if summaries := read_records(metrics, SUMMARY):
        raise ConfigError(
            f"{metrics}: expected the weights of every update, found {len(summaries)} updates "
            f"without, the first at step {summaries[0]['step']}; train that run with "
            "metrics.by_domain_every: 1"
        )
    return read_weights(metrics)


def _over(every: Sequence[str], names: Sequence[str], weights: FloatArray) -> FloatArray:
    """Return weights over more domains, 0 for those that were not there."""
    wider = np.zeros((len(weights), len(every)))
    wider[:, [every.index(name) for name in names]] = weights
    return wider


def read_weights(metrics: Path) -> WeightHistory:
    """Return the weights in the updates of a run's metrics.

    Of a run whose domains were revised, a domain has the weight 0 while it is not there.

    Raises:
        ConfigError: If there is no update yet, or the domains change without a revision.
    """
    updates = read_records(metrics, "update")
    if not updates:
        raise ConfigError(f"{metrics}: expected a record of type update, found none")
    weights = [averaged_weights(metrics, update) for update in updates]
    names: tuple[str, ...] = tuple(weights[0])
    revised = is_revised(metrics)
    if revised:
        names = tuple(dict.fromkeys(name for of_update in weights for name in of_update))
    for update, of_update in zip(updates, weights, strict=True):
        if (found := tuple(of_update)) != names and not revised:
            raise ConfigError(
                f"{metrics}: update of step {update['step']}: expected the domains "
                f"{', '.join(names)}, found {', '.join(found)}"
            )
    return WeightHistory(
        names,
        np.array([update["step"] for update in updates], dtype=np.int64),
        np.array([[of_update.get(name, 0.0) for name in names] for of_update in weights]),
    )
