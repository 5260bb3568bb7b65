"""Writes ``by_domain.log``: the values by domain of every update and evaluation, in full."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

import numpy as np

from megadga.plugin import Metrics
from megadga.plugin.records import BY_DOMAIN
from megadga.report.history import START
from megadga.run_folder.domain_log import (
    EVALUATION,
    MAGIC,
    WINDOWS,
    names_frame,
    read_domain_log,
    values_frame,
)
from megadga.train.appending import AppendedFile


@final
class DomainLogFile:
    """Appends the values by domain of records; a ``MetricSink``.

    Those of an update, the weights and windows that the run starts with, the validation losses of
    an evaluation and how far each domain has been read by then.

    Args:
        path: The file, appended to by one process; its folder exists. ``cut`` comes before the
            first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = AppendedFile(path)
        self._numbers: dict[tuple[str, ...], int] = {}

    def log(self, step: int, metrics: Metrics) -> None:
        """Append the values of optimizer step ``step``: all of them, or none.

        Raises:
            OSError: If they cannot be written; the same records may be logged again then.
        """
        values = dict(_values_by_domain(metrics))
        if not values:
            return
        numbers = dict(self._numbers)
        frames = [] if numbers else [MAGIC]
        for key, by_name in values.items():
            names = tuple(by_name)
            if (number := numbers.get(names)) is None:
                number = numbers[names] = len(numbers)
                frames.append(names_frame(number, names))
            array = np.array(list(by_name.values()), dtype=np.float64)
            frames.append(values_frame(key, step, number, array))
        self._file.append(b"".join(frames))
        self._numbers = numbers

    def sync(self) -> int:
        """Sync the file to disk; return its length in bytes.

        Raises:
            OSError: If it cannot be synced; can be called again then.
        """
        return self._file.sync()

    def cut(self, length: int) -> None:
        """Truncate the file to what it was at a checkpoint.

        Args:
            length: Its length then, in bytes.

        Raises:
            ResumeError: If it is shorter.
            ConfigError: If it is damaged.
        """
        if self._file.check_reaches(length):
            self._file.truncate(length)
        known = read_domain_log(self._path).name_sets
        self._numbers = {names: number for number, names in known.items()}


def _values_by_domain(metrics: Metrics) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the values by domain, or basis distribution, of a step's records, by their keys."""
    evaluation, event = metrics.get("evaluation", {}), metrics.get("event", {})
    if "epochs" in evaluation:
        yield "epochs", evaluation["epochs"]
    if evaluation.get("domains"):
        yield EVALUATION, evaluation["domains"]
    if WINDOWS in event:  # of a start or a revision
        yield WINDOWS, event[WINDOWS]
    if event.get("event") == START:
        yield from ((key, event[key]) for key in BY_DOMAIN if key in event)
    update = metrics.get("update", {})
    for key in BY_DOMAIN:
        if key.startswith("target_"):
            for target, found in update.get(key, {}).items():
                yield f"{key}.{target}", found
        elif key in update:
            yield key, update[key]
