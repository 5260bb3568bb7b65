"""Where the time of an optimizer step goes, on this rank, without waiting for the accelerator."""

import time
from collections.abc import Callable, Mapping
from typing import Any, final

import torch

_DIGITS = 6
"""Microseconds."""


@final
class StepTimer:
    """Divides a training step into its passes and the optimizer.

    An accelerator works behind the process that queues its work. It notes the times itself, by
    events in the stream, which are read after the step: its losses have been copied by then, and
    so all work before them is done. Where an event is not reached yet, the process's own times
    are returned: nothing waits for it.

    Args:
        device: What is trained on.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._moments = [0.0, 0.0, 0.0]
        self._events: list[torch.Event] = []
        if device.type != "cpu":
            self._events = [torch.Event(device=device, enable_timing=True) for _ in range(3)]

    def begin(self) -> None:
        """Note the begin of the passes."""
        self._note(0)

    def begin_optimizer(self) -> None:
        """Note the end of the passes, and the begin of the optimizer's step."""
        self._note(1)

    def end_optimizer(self) -> None:
        """Note the end of the optimizer's step."""
        self._note(2)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of both parts of the last step."""
        begin, middle, end = self._moments
        passes, optimizer = middle - begin, end - middle
        if self._events and all(event.query() for event in self._events):
            first, second, third = self._events
            passes = first.elapsed_time(second) / 1000.0
            optimizer = second.elapsed_time(third) / 1000.0
        return {"forward_backward": passes, "optimizer": optimizer}

    def _note(self, index: int) -> None:
        self._moments[index] = self._clock()
        if self._events:
            self._events[index].record()


@final
class StepTimes:
    """Divides the time of one turn of the training loop.

    Args:
        utilization: Model FLOPs utilisation of one token per second; None: the accelerator's peak
            is not known.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        utilization: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._utilization = utilization
        self._clock = clock
        self._since = 0.0
        self._probed_s = 0.0
        self._parts: dict[str, float] = {}

    def begin(self, probed_s: float) -> None:
        """Begin a step.

        Args:
            probed_s: Seconds that were spent on measuring alignments so far.
        """
        self._since, self._probed_s = self._clock(), probed_s
        self._parts = {"probe": 0.0}

    def lap(self, part: str, probed_s: float) -> None:
        """Count the time since the last call for a part, but for what was spent on measuring.

        Args:
            part: Its name.
            probed_s: As in ``begin``.
        """
        now, measured = self._clock(), probed_s - self._probed_s
        self._parts["probe"] += measured
        own = now - self._since - measured
        self._parts[part] = self._parts.get(part, 0.0) + max(own, 0.0)
        self._since, self._probed_s = now, probed_s

    def record(self, train: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a ``train`` record says of the step's times, in place of its own.

        Args:
            train: The trainer's record: ``tokens_per_s``, and ``seconds`` as of `StepTimer`.
        """
        seconds = {"data": self._parts.get("data", 0.0), **train["seconds"]}
        for part in ("probe", "evaluation"):
            if (spent := self._parts.get(part, 0.0)) > 0.0:
                seconds[part] = spent
        record: dict[str, Any] = {
            "seconds": {part: round(spent, _DIGITS) for part, spent in seconds.items()}
        }
        if self._utilization is not None:
            record["mfu"] = round(self._utilization * train["tokens_per_s"], _DIGITS)
        return record
