"""Passes a run's numbers to its monitors, of which none can end the run or hold it up.

DeepSpeed's monitor classes cannot go on with a run: they start another one in Weights & Biases and
Comet, repeat the steps since the checkpoint in TensorBoard, and write a second header into CSV
files. They take no name, no configuration and no offline mode, either. So each package is used by
itself here; DeepSpeed's classes only serve the blocks of its own JSON (``deepspeed.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from megadga.plugin import Metrics
from megadga.train.monitors.values import RecordValues

_LONGEST_PAUSE = 1024


class Monitor(Protocol):
    """Receives a run's numbers, on one rank. Any exception means that it has failed for now."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of optimizer step ``step``, by name; several times for some steps."""
        ...

    def go_back(self, step: int) -> None:
        """Go on after an earlier step, whose successors are trained again, other ones maybe."""
        ...

    def flush(self) -> None:
        """Write what has been taken, where that is not done by itself."""
        ...

    def close(self) -> None:
        """Write all of it, and end."""
        ...


@dataclass
class _State:
    """How a monitor fares.

    Attributes:
        failures: In a row.
        pause: Writes that it is spared from.
    """

    failures: int = 0
    pause: int = 0


@final
class Monitors:
    """Passes numbers to monitors; a ``MetricSink``.

    A monitor that raises anything is left alone for 2, 4, 8 ... at most 1,024 writes; what it
    missed is in the metrics. The first failure is an event. After a write that succeeds, it is as
    if there had been none.

    Args:
        monitors: They are written to in this order; none on ranks that do not log.
        values: Names the numbers.
        every: Steps between those whose ``train`` records are passed on, at least 1.
    """

    def __init__(
        self, monitors: Sequence[Monitor], values: RecordValues | None = None, *, every: int = 1
    ) -> None:
        self._monitors = {monitor: _State() for monitor in monitors}
        self._values = values
        self._every = every
        self._trained = 0
        self._events: list[dict[str, Any]] = []

    def log(self, step: int, metrics: Metrics) -> None:
        """Pass on the numbers of the records of optimizer step ``step``."""
        if not self._monitors or self._values is None:
            return
        if "train" in metrics:
            if step <= self._trained:
                self._each(lambda monitor: monitor.go_back(step - 1))
            self._trained = step
            if step % self._every:
                metrics = {kind: metrics[kind] for kind in metrics if kind != "train"}
        if not (values := self._values.of(step, metrics)):
            return
        # Of a checkpoint that was written meanwhile, the step is an earlier one.
        at = max(step, self._trained)
        self._each(lambda monitor: monitor.write(at, values))
        if "checkpoint" in metrics:
            self._each(lambda monitor: monitor.flush())

    def report(self, name: str, error: Exception) -> None:
        """Note an event: a monitor has failed."""
        found = " ".join(f"{type(error).__name__}: {error}".split())
        self._events.append({"event": "monitor_failed", "monitor": name, "error": found[:500]})

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End all of them."""
        for state in self._monitors.values():
            state.pause = 0
        self._each(lambda monitor: monitor.close())
        self._monitors = {}

    def _each(self, act: Callable[[Monitor], None]) -> None:
        for monitor, state in self._monitors.items():
            if state.pause > 0:
                state.pause -= 1
                continue
            try:
                act(monitor)
            except Exception as error:  # noqa: BLE001  (whatever a monitor does, the run goes on)
                if state.failures == 0:
                    self.report(monitor.name, error)
                state.failures += 1
                state.pause = min(2**state.failures, _LONGEST_PAUSE)
            else:
                state.failures = 0
