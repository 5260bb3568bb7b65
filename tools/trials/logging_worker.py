"""Trains runs in turns, some steps at a time, of which the plain one logs nothing at all."""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, final

from megadga.config.loading import load_config
from megadga.console import run_program
from megadga.plugin import Metrics
from megadga.train.assembly import open_run
from megadga.train.collective_metrics import CollectiveMetrics
from megadga.train.loop import Run, train
from megadga.train.ranks import process_group
from trials.interleaving import PLAIN, Segment, order_of_round


@final
@dataclass(frozen=True)
class NoMetrics:
    """Takes records and does nothing."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""


@final
class TimedMetrics:
    """Passes records on, and counts the processor time that this takes the training loop."""

    def __init__(self, metrics: CollectiveMetrics) -> None:
        self.seconds = 0.0
        self._metrics = metrics

    def log(self, step: int, metrics: Metrics) -> None:
        """See ``CollectiveMetrics``."""
        began = time.thread_time()
        self._metrics.log(step, metrics)
        self.seconds += time.thread_time() - began

    def settle(self) -> None:
        """See ``CollectiveMetrics``."""
        self._metrics.settle()


def without_logging(run: Run) -> Run:
    """Return the run without its metrics."""
    return replace(run, metrics=cast("Any", NoMetrics()))


def time_steps(name: str, run: Run, steps: int) -> tuple[Segment, Segment]:
    """Train some steps; return their wall-clock time and this process's processor time.

    Other load on the machine lengthens the former, and hardly the latter.
    """
    wall, processor = time.perf_counter(), time.process_time()
    train(replace(run, total_steps=run.mixture.step + steps))
    return (
        Segment(name, time.perf_counter() - wall),
        Segment(name, time.process_time() - processor),
    )


def main(output: str, steps: str, rounds: str, *configs: str) -> None:
    """Write the segments of every round, after some steps of each run that are not timed."""
    paths = {Path(config).stem: Path(config) for config in configs}
    with process_group(), ExitStack() as stack:
        runs = {
            name: stack.enter_context(open_run(load_config(path))) for name, path in paths.items()
        }
        timers = {name: TimedMetrics(run.metrics) for name, run in runs.items() if name != PLAIN}
        runs |= {
            name: replace(runs[name], metrics=cast("Any", timer)) for name, timer in timers.items()
        }
        runs[PLAIN] = without_logging(runs[PLAIN])
        for run in runs.values():
            train(replace(run, total_steps=int(steps)))
        for timer in timers.values():
            timer.seconds = 0.0
        timed: list[list[tuple[Segment, Segment]]] = []
        for number in range(int(rounds)):
            order = order_of_round([name for name in paths if name != PLAIN], number)
            timed.append([time_steps(name, runs[name], int(steps)) for name in order])
    logged = int(steps) * int(rounds)
    calls = {name: timer.seconds / logged for name, timer in timers.items()}
    by_clock = {
        clock: [[asdict(segment[index]) for segment in segments] for segments in timed]
        for index, clock in enumerate(("wall", "processor"))
    }
    Path(output).write_text(json.dumps({"segments": by_clock, "calls_s": calls}))


if __name__ == "__main__":
    run_program(lambda: main(*sys.argv[1:]))
