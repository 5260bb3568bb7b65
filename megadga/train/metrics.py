"""Metric sinks: a JSON-lines file, and a file of mean weights."""

import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, final

from megadga.config.yaml_source import dump_line
from megadga.data.files import atomic_write, parse_strictly
from megadga.plugin import Metrics
from megadga.plugin.records import MEAN_WEIGHTS
from megadga.train.appending import AppendedFile


class MetricSink(Protocol):
    """Receives the metrics of each step."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the records of optimizer step ``step``."""
        ...


@final
class MetricFanOut:
    """Forwards every record to several sinks.

    Sinks exist on one rank only. An exception there would leave the other ranks waiting in their
    next collective, so it is stored until the ranks exchange failures.

    Args:
        sinks: In order; may be empty.
        retries: Whether records that a sink could not write, by an ``OSError``, are written later.
    """

    def __init__(self, sinks: Sequence[MetricSink], *, retries: bool = False) -> None:
        self._sinks = tuple(sinks)
        self._retries = retries
        self._failure: Exception | None = None
        self._waiting = deque[tuple[MetricSink, int, Metrics]]()

    def add(self, *sinks: MetricSink) -> None:
        """Forward records to more sinks, behind those that there are."""
        self._sinks = (*self._sinks, *sinks)

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the records of optimizer step ``step``; a no-op after a failure."""
        if self._failure is not None:
            return
        self._waiting.extend((sink, step, metrics) for sink in self._sinks)
        try:
            self._write()
        except OSError as error:
            self._failure = None if self._retries else error
        except Exception as error:  # noqa: BLE001  (raised by `check`)
            self._failure = error

    @property
    def failed(self) -> bool:
        """Whether a sink has failed for good."""
        return self._failure is not None

    @property
    def waiting(self) -> bool:
        """Whether there are records to be written later."""
        return bool(self._waiting) and self._failure is None

    def check(self) -> None:
        """Write the records that wait, and raise the exception of a failed sink, if any."""
        if self._failure is not None:
            raise self._failure
        self._write()

    def _write(self) -> None:
        while self._waiting:
            sink, step, metrics = self._waiting[0]
            sink.log(step, metrics)
            self._waiting.popleft()


@final
class MetricsFile:
    """Writes one JSON line per record: ``type``, ``step`` and the record's values.

    Non-finite numbers, which JSON cannot represent, are written as ``null`` and listed in an
    additional ``event`` line.

    Args:
        path: The file, appended to by one process; its folder exists.

    Attributes:
        abandoned_until: The last step of what was cut last, 0: nothing was.
    """

    def __init__(self, path: Path) -> None:
        self.abandoned_until = 0
        self._file = AppendedFile(path)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line for each record of optimizer step ``step``: all of them, or none.

        Raises:
            OSError: If they cannot be written; the same records may be logged again then.
        """
        lines: list[str] = []
        for kind, record in metrics.items():
            non_finite: list[str] = []
            lines.append(_line(kind, step, _jsonable(record, "", non_finite)))
            if non_finite:
                event = {"event": "not_finite", "record": kind, "keys": non_finite}
                lines.append(_line("event", step, event))
        self._file.append("".join(lines).encode())

    def sync(self) -> int:
        """Sync the file to disk; return its length in bytes.

        Raises:
            OSError: If it cannot be synced; can be called again then.
        """
        return self._file.sync()

    def cut(self, length: int, *, checkpoints_until: int = 0) -> None:
        """Truncate the file to ``length`` bytes; the rest is moved to ``NAME.abandoned.jsonl``.

        Args:
            length: Its length at the checkpoint that the run resumes from.
            checkpoints_until: The step of that checkpoint. The ``checkpoint`` records up to it
                are kept: they are written when the checkpoint is complete.

        Raises:
            ResumeError: If the file is shorter.
        """
        self.abandoned_until = 0
        if not self._file.check_reaches(length):
            return
        path = self._file.path
        with path.open("rb") as file:
            file.seek(length)
            lines = file.read().splitlines(keepends=True)
        kept = [line for line in lines if _is_of_checkpoint(line, checkpoints_until)]
        abandoned = b"".join(line for line in lines if line not in kept)
        self.abandoned_until = max((int(step) for step in _STEPS.findall(abandoned)), default=0)
        if abandoned:
            with path.with_suffix(".abandoned.jsonl").open("ab") as aside:
                aside.write(abandoned if abandoned.endswith(b"\n") else abandoned + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
        self._file.truncate(length)
        self._file.append(b"".join(kept))


_STEPS = re.compile(rb'^\{"type": "\w+", "step": (\d+)[,}]', re.MULTILINE)


def _is_of_checkpoint(line: bytes, last_step: int) -> bool:
    """Return whether a line is the record of a checkpoint up to a step."""
    try:
        match parse_strictly(line):
            case {"type": "checkpoint", "step": int(step)}:
                return step <= last_step
            case _:
                return False
    except ValueError:  # a torn line
        return False


def _line(kind: str, step: int, record: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "step": step, **record}, allow_nan=False) + "\n"


def _jsonable(value: Any, key: str, non_finite: list[str]) -> Any:
    """Replace non-finite numbers by None, and collect their dotted keys in ``non_finite``."""
    match value:
        case dict():
            named = cast("dict[str, Any]", value).items()
            return {
                name: _jsonable(inner, f"{key}.{name}" if key else name, non_finite)
                for name, inner in named
            }
        case float() if not math.isfinite(value):
            non_finite.append(key)
            return None
        case _:
            return value


@final
class MeanWeightsFile:
    """Writes ``mean_weights.yaml`` for schedulers that keep a mean of the weights; a sink.

    The file has one line, ``{type: static, weights: {domain: weight}}``, usable as the value of
    ``mixing:`` in the configuration of a run with these fixed weights, or of ``mixing=`` in an
    override. It is written at every checkpoint and at the last step.

    Args:
        path: The file; its folder exists.
        due: Whether a checkpoint is written after optimizer step ``step`` (from 1).
        last_step: Total optimizer steps of the run.
    """

    def __init__(self, path: Path, *, due: Callable[[int], bool], last_step: int) -> None:
        self._path = path
        self._due = due
        self._last_step = last_step
        self._weights: dict[str, float] | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the records of optimizer step ``step``."""
        update = metrics.get("update", {})
        self._weights = update.get(MEAN_WEIGHTS, self._weights)
        # Without an update since this process started, the existing file is up to date.
        if self._weights is not None and (self._due(step) or step == self._last_step):
            line = dump_line({"type": "static", "weights": self._weights})
            with atomic_write(self._path) as file:
                file.write(line.encode())
