"""Where metrics go: a JSON-lines file, mean weights for a static run, and the console."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, cast, final

from tqdm import tqdm

from megadga.config.yaml_source import dump_line
from megadga.console import can_draw_bars
from megadga.data.files import atomic_write
from megadga.errors import ResumeError
from megadga.plugin import Metrics
from megadga.plugin.records import MEAN_WEIGHTS


class MetricSink(Protocol):
    """Where the metrics of a step go."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the records of optimizer step ``step``."""
        ...


@final
class MetricFanOut:
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


@final
class MeanWeightsFile:
    """Keeps ``mean_weights.yaml`` up to date for rules that keep a mean; a ``MetricSink``.

    The file is one line, ``{type: static, weights: {domain: weight}}``: what follows ``mixing:``
    in the file of a run at those weights, or ``mixing=`` in an override. It is written at the
    steps that a checkpoint ends, and at the last one.

    Args:
        path: The file; its folder exists.
        due: Whether optimizer step ``step`` (from 1) ends with a checkpoint.
        last_step: Optimizer steps of the whole run.
    """

    def __init__(self, path: Path, *, due: Callable[[int], bool], last_step: int) -> None:
        self._path = path
        self._due = due
        self._last_step = last_step
        self._weights: dict[str, float] | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the records of optimizer step ``step``."""
        update = metrics.get("update", {})
        self._weights = update.get(MEAN_WEIGHTS, self._weights)
        # Without an update since this process started, the file is what it has to be.
        if self._weights is not None and (self._due(step) or step == self._last_step):
            line = dump_line({"type": "static", "weights": self._weights})
            with atomic_write(self._path) as file:
                file.write(line.encode())


_SHOWN_WEIGHTS = 3


_UNTOLD = ("start",)
"""Events of which the lines of steps say as much."""


_LISTED = 8
"""Names that an event lists: there may be thousands of domains."""


@final
class Progress:
    """A bar on a terminal that has columns; elsewhere, for logs, plain lines. A ``MetricSink``.

    Plain lines are of the first step and then now and then, with the time left.

    Args:
        total_steps: Optimizer steps of the whole run.
        first_step: Steps completed before this process started.
        weights: Weight of each domain at the start; updates in the metrics replace them.
        stream: Where to write, for example standard error.
        line_interval: Steps between plain lines, at least 1.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        first_step: int,
        weights: Mapping[str, float],
        stream: TextIO,
        line_interval: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._stream = stream
        self._line_interval = line_interval
        self._largest = _largest(weights)
        self._clock = clock
        self._timed_from: tuple[int, float] | None = None
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            file=stream,
            disable=not can_draw_bars(stream),
            unit="step",
            dynamic_ncols=True,
        )
        if first_step:
            self._write(f"continues after step {first_step}")

    def log(self, step: int, metrics: Metrics) -> None:
        """Show the records of optimizer step ``step``."""
        if "update" in metrics:
            update = metrics[
                "update"
            ]  # of a rule over a basis, perhaps without the domains' weights
            self._largest = _largest(
                update.get("averaged_weights") or update["basis_averaged_weights"]
            )
        if "train" in metrics:
            self._show_step(step, metrics["train"])
        if "evaluation" in metrics:
            self._write(f"step {step}: validation {_losses(metrics['evaluation'])}")
        if "event" in metrics and metrics["event"]["event"] not in _UNTOLD:
            self._write(f"step {step}: {_event(metrics['event'])}")
        if step == self._total_steps:
            self._bar.close()

    def _show_step(self, step: int, train: Mapping[str, Any]) -> None:
        told = f"loss {train['loss']:.3f}  {train['tokens_per_s']:,.0f} tokens/s  {self._largest}"
        is_first = self._timed_from is None
        if self._timed_from is None:  # the first step of a process has much to set up
            self._timed_from = step, self._clock()
        if not self._bar.disable:
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update()
        elif is_first or step % self._line_interval == 0 or step == self._total_steps:
            left = self._time_left(step, *self._timed_from)
            self._write(f"step {step}/{self._total_steps}  {told}{left}")

    def _time_left(self, step: int, first_step: int, since: float) -> str:
        """Return how long the rest takes, at the speed since this process's first step."""
        if not first_step < step < self._total_steps:
            return ""
        seconds = (self._clock() - since) / (step - first_step) * (self._total_steps - step)
        return f"  {tqdm.format_interval(seconds)} left"

    def _write(self, line: str) -> None:
        with suppress(OSError):  # a closed terminal ends no run: a stop saves first
            self._bar.write(line, file=self._stream)
            self._stream.flush()


def _largest(weights: Mapping[str, float]) -> str:
    """Return the three largest weights in words: ``code 0.41, books 0.22, web 0.10``."""
    heaviest = sorted(weights, key=lambda name: -weights[name])[:_SHOWN_WEIGHTS]
    return ", ".join(f"{name} {weights[name]:.3f}" for name in heaviest)


def _losses(evaluation: Mapping[str, Any]) -> str:
    losses = {**evaluation["specific"], "general": evaluation["general"]}
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)


def _event(event: Mapping[str, Any]) -> str:
    details = ", ".join(f"{key} {_shown(value)}" for key, value in event.items() if key != "event")
    return f"{event['event']} ({details})"


def _shown(value: Any) -> str:
    """Return a value in words; of a long list, the first ones."""
    if not isinstance(value, list):
        return str(value)
    items = cast("list[Any]", value)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"[{', '.join(map(str, items[:_LISTED]))}{more}]"
