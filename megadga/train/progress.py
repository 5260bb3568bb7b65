"""What a person sees while a run trains. Knows metrics by name, not where they come from."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO, cast, final

from tqdm import tqdm

from megadga.console import draws_bars
from megadga.plugin import Metrics

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
            disable=not draws_bars(stream),
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
