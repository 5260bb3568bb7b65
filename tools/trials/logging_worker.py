"""Trains a run in turns of some steps, with what it logs and without."""

import json
import sys
import time
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
from trials.interleaving import Turn, order_of_pair


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


def time_steps(run: Run, steps: int, *, logged: bool) -> Turn:
    """Train some steps, and time them by the wall clock and by this process's processor time.

    Other load on the machine lengthens the former, and hardly the latter.
    """
    metrics = run.metrics if logged else cast("Any", NoMetrics())
    wall, processor = time.perf_counter(), time.process_time()
    train(replace(run, metrics=metrics, total_steps=run.mixture.step + steps))
    return Turn(
        logged=logged,
        wall_s=time.perf_counter() - wall,
        processor_s=time.process_time() - processor,
    )


def main(config: str, output: str, steps: str, rounds: str) -> None:
    """Write the turns of a run, after some steps that are not timed."""
    with process_group(), open_run(load_config(Path(config))) as opened:
        timer = TimedMetrics(opened.metrics)
        run = replace(opened, metrics=cast("Any", timer))
        train(replace(run, total_steps=int(steps)))
        timer.seconds = 0.0
        turns = [
            time_steps(run, int(steps), logged=logged)
            for number in range(int(rounds))
            for logged in order_of_pair(number)
        ]
    calls_s = timer.seconds / (int(steps) * int(rounds))
    found = {"turns": [asdict(turn) for turn in turns], "calls_s": calls_s}
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    run_program(lambda: main(*sys.argv[1:]))
