"""Trains like the command line, and writes down at intervals what the process has come to hold.

Takes the configuration, a file, and the steps between its lines; each is an ``Observation``. Rank
0 writes them.
"""

import gc
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train


@dataclass(frozen=True)
class Observation:
    """What a process holds after an optimizer step, and what it has used.

    Attributes:
        step: The step.
        blocks: Memory blocks of Python's allocator.
        resident_bytes: Memory that is in use.
        open_files: Descriptors.
        maps: Mapped regions of memory.
        threads: Of the operating system.
        cpu_s: Processor time since the process began, of all threads.
        metrics_bytes: Length of the metrics file.
    """

    step: int
    blocks: int
    resident_bytes: int
    open_files: int
    maps: int
    threads: int
    cpu_s: float
    metrics_bytes: int


class Observer:
    """A plugin that observes its own process, and holds nothing of it."""

    name = "observer"

    def __init__(self, path, metrics, interval):
        self.path, self.metrics, self.interval = path, metrics, interval

    def after_step(self, step):
        if step % self.interval == self.interval // 2:  # and nothing else is due
            cpu_s = time.process_time()
            gc.collect()
            process = psutil.Process()
            observation = Observation(
                step,
                blocks=sys.getallocatedblocks(),
                resident_bytes=process.memory_info().rss,
                open_files=process.num_fds(),
                maps=len(Path("/proc/self/maps").read_bytes().splitlines()),
                threads=process.num_threads(),
                cpu_s=cpu_s,
                metrics_bytes=self.metrics.stat().st_size,
            )
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(observation)) + "\n")
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise NotImplementedError


def main() -> None:
    path, output, interval = sys.argv[1:]
    config = load_config(Path(path))
    with open_run(config) as run:
        plugins = run.plugins
        if os.environ.get("RANK", "0") == "0":
            metrics = config.output / "metrics.jsonl"
            plugins = (*plugins, Observer(Path(output), metrics, int(interval)))
        train(replace(run, plugins=plugins))


if __name__ == "__main__":
    main()
