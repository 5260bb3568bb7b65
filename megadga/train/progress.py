"""How far a run has come, as lines: what a log shows, and what a terminal keeps above its view."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, TextIO, cast, final

from megadga.plugin import Metrics
from megadga.report.history import START
from megadga.train.waiting import format_bytes

_NUM_SHOWN_WEIGHTS = 3


_LISTED = 8
"""Names listed in an event; there may be thousands of domains."""


class Progress(Protocol):
    """Shows the records of each step; a ``MetricSink``."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Show the records of optimizer step ``step``."""
        ...

    def close(self) -> None:
        """Show nothing any more; can be called again."""
        ...


@final
class NoProgress:
    """Shows nothing: of ranks other than 0."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


@final
class ProgressLines:
    """Prints lines of a log: the first step and steps at intervals, and what happens meanwhile.

    Args:
        total_steps: Optimizer steps of the whole run.
        weights: Initial weight of each domain, replaced by those of updates.
        stream: For example standard error.
        line_interval: Steps between lines, at least 1.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        weights: Mapping[str, float],
        stream: TextIO,
        line_interval: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._stream = stream
        self._line_interval = line_interval
        self._largest = _largest(weights)
        self._pace = Pace(total_steps, clock)
        self._is_first = True

    def log(self, step: int, metrics: Metrics) -> None:
        """Show the records of optimizer step ``step``."""
        if "update" in metrics:
            self._largest = _largest(shown_weights(metrics["update"]))
        if "train" in metrics:
            self._pace.advance(step)
            if self._is_first or step % self._line_interval == 0 or step == self._total_steps:
                self._print(self._step_line(step, metrics["train"]))
            self._is_first = False
        for line in happened(step, metrics):
            self._print(line)

    def close(self) -> None:
        """Do nothing: every line is complete."""

    def _step_line(self, step: int, train: Mapping[str, Any]) -> str:
        left_s = self._pace.left_s()
        left = "" if left_s is None else f"  {format_duration(left_s)} left"
        loss, speed = f"loss {train['loss']:.3f}", f"{train['tokens_per_s']:,.0f} tokens/s"
        return f"step {step}/{self._total_steps}  {loss}  {speed}  {self._largest}{left}"

    def _print(self, line: str) -> None:
        with suppress(OSError):  # a closed terminal must not end the run
            print(line, file=self._stream, flush=True)


@final
class Pace:
    """The time that a run has left, by its speed since the first step of this process.

    Args:
        total_steps: Optimizer steps of the whole run.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, total_steps: int, clock: Callable[[], float]) -> None:
        self._total_steps = total_steps
        self._clock = clock
        self._from: tuple[int, float] | None = None
        self._step = 0

    def advance(self, step: int) -> None:
        """Take note of a completed step; the first is not timed, as it includes set-up."""
        self._step = step
        if self._from is None or step <= self._from[0]:  # a run may go back
            self._from = step, self._clock()

    def left_s(self) -> float | None:
        """Return the seconds until the last step; None: unknown, or none."""
        if self._from is None or not self._from[0] < self._step < self._total_steps:
            return None
        first_step, since = self._from
        per_step_s = (self._clock() - since) / (self._step - first_step)
        return per_step_s * (self._total_steps - self._step)


def shown_weights(update: Mapping[str, Any]) -> Mapping[str, float]:
    """Return an update's averaged weights: the domains', or the basis' if there are too many."""
    return update.get("averaged_weights") or update["basis_averaged_weights"]


def happened(step: int, metrics: Metrics) -> Iterator[str]:
    """Yield a line for each evaluation, checkpoint and event of a step."""
    if "evaluation" in metrics:
        losses = evaluated_losses(metrics["evaluation"])
        listed = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        yield f"step {step}: validation {listed}"
    if "checkpoint" in metrics:
        yield f"step {step}: {_checkpoint(metrics['checkpoint'])}"
    if "event" in metrics and metrics["event"]["event"] != START:
        yield f"step {step}: {_event(metrics['event'])}"


def evaluated_losses(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the validation loss of each specific set, and the general one if it is known."""
    losses = {**evaluation["specific"], "general": evaluation["general"]}
    return {name: loss for name, loss in losses.items() if loss is not None}


def format_duration(seconds: float) -> str:
    """Return ``MM:SS``, from an hour on ``H:MM:SS``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _largest(weights: Mapping[str, float]) -> str:
    """Return the three largest weights: ``code 0.41, books 0.22, web 0.10``."""
    heaviest = sorted(weights, key=lambda name: -weights[name])[:_NUM_SHOWN_WEIGHTS]
    return ", ".join(f"{name} {weights[name]:.3f}" for name in heaviest)


def _checkpoint(written: Mapping[str, Any]) -> str:
    size, rate = format_bytes(written["bytes"]), format_bytes(written["bytes_per_s"])
    waited = f", training waited {written['waited_s']:.1f} s"
    return f"checkpoint of {size} written in {written['seconds']:.1f} s ({rate}/s){waited}"


def _event(event: Mapping[str, Any]) -> str:
    if event["event"] == "advice":
        return f"advice: {event['text']}"
    details = ", ".join(
        f"{key} {_format_value(value)}" for key, value in event.items() if key != "event"
    )
    return f"{event['event']} ({details})"


def _format_value(value: Any) -> str:
    """Return a value as text; long lists are truncated."""
    if not isinstance(value, list):
        return str(value)
    items = cast("list[Any]", value)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"[{', '.join(map(str, items[:_LISTED]))}{more}]"
