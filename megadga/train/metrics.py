"""Metrics as lines of JSON, in a file that a resumed run continues. Knows no metric by name."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, final

from megadga.errors import ResumeError
from megadga.plugin import Metrics


class MetricSink(Protocol):
    """Where the metrics of a step go."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the records of optimizer step ``step``."""
        ...


@final
class FanOut:
    """Hands every record to several sinks.

    Sinks are on one rank alone. If one fails, that rank must not leave the others waiting at their
    next collective: the failure is kept until all ranks talk to each other anyway.

    Args:
        sinks: In this order; may be none.
    """

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = tuple(sinks)
        self._failure: Exception | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the records of optimizer step ``step``; after a failure, no more."""
        try:
            for sink in self._sinks if self._failure is None else ():
                sink.log(step, metrics)
        except Exception as error:  # noqa: BLE001  (raised by `check`)
            self._failure = error

    @property
    def failed(self) -> bool:
        """Whether a sink has failed."""
        return self._failure is not None

    def check(self) -> None:
        """Raise what a sink has failed with, if one has."""
        if self._failure is not None:
            raise self._failure


@final
class MetricsFile:
    """One line of JSON a record: ``type``, ``step`` and what the record says.

    A number that is not finite is written as ``null`` (JSON has no other word for it), and an
    ``event`` line names it.

    Args:
        path: Appended to, by one process; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line for each record of optimizer step ``step``."""
        lines: list[str] = []
        for kind, record in metrics.items():
            lost: list[str] = []
            lines.append(_line(kind, step, _representable(record, "", lost)))
            if lost:
                event = {"event": "not_finite", "record": kind, "keys": lost}
                lines.append(_line("event", step, event))
        with self._path.open("ab") as file:
            file.write("".join(lines).encode())

    def sync(self) -> int:
        """Bring what was logged to the disk; return the file's length in bytes."""
        with self._path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, length: int) -> None:
        """Shorten the file to ``length`` bytes; what follows goes to ``NAME.abandoned.jsonl``.

        Raises:
            ResumeError: If the file is shorter.
        """
        found = self.sync()
        if found < length:
            raise ResumeError(
                f"{self._path}: expected at least the {length} bytes that the checkpoint saw, "
                f"found {found}"
            )
        if found == length:
            return
        with self._path.open("rb") as file:
            file.seek(length)
            abandoned = file.read()
        with self._path.with_suffix(".abandoned.jsonl").open("ab") as aside:
            aside.write(abandoned if abandoned.endswith(b"\n") else abandoned + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        os.truncate(self._path, length)


def _line(kind: str, step: int, record: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "step": step, **record}, allow_nan=False) + "\n"


def _representable(value: Any, key: str, lost: list[str]) -> Any:
    """Replace numbers that JSON cannot write by None, and note their dotted keys in ``lost``."""
    match value:
        case dict():
            named = cast("dict[str, Any]", value).items()
            return {
                name: _representable(inner, f"{key}.{name}" if key else name, lost)
                for name, inner in named
            }
        case float() if not math.isfinite(value):
            lost.append(key)
            return None
        case _:
            return value
