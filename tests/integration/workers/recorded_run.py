"""Trains like the command line, and writes down what each rank trains on in every step.

Rank 0 waits before the batches of some steps until there is a request; all kill themselves in one.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from megadga.config.loading import load_config
from megadga.run_folder.requests import RequestFolder
from megadga.train.assembly import open_run
from megadga.train.loop import train
from tests.integration.workers.killed_run import KillAt

DEADLINE_S = 120


class Recorded:
    """The mixture of a run; what it hands out is appended to a file of this rank."""

    def __init__(self, mixture, path, output, waits):
        self._mixture = mixture
        self._path = path
        self._output = output
        self._waits = waits

    @property
    def step(self):
        return self._mixture.step

    @property
    def probed_s(self):
        return self._mixture.probed_s

    def next_batch(self):
        if self.step + 1 in self._waits:
            self._wait()
        weights = self._mixture.weights.tolist()
        batch = self._mixture.next_batch()
        found = {
            "step": batch.step,
            "weights": weights,
            "domains": batch.indices.domains.tolist(),
            "windows": batch.indices.sequences.tolist(),
            "rows": batch.indices.rows.tolist(),
            "tokens": batch.tokens.tolist(),
        }
        with self._path.open("a") as file:
            file.write(f"{json.dumps(found)}\n")
        return batch

    def _wait(self):
        self._path.with_suffix(f".waits-before-{self.step + 1}").touch()
        until = time.monotonic() + DEADLINE_S
        while not RequestFolder(self._output).pending():
            assert time.monotonic() < until, "no request"
            time.sleep(0.05)
        time.sleep(1.1)  # then it is found in this step


def main() -> None:
    config_path, record, waits, kill_at, *overrides = sys.argv[1:]
    config = load_config(Path(config_path), overrides)
    with open_run(config) as run:
        rank = run.checkpoints._ranks.rank
        path = Path(f"{record}-{rank}.jsonl")
        waiting = json.loads(waits) if rank == 0 else []
        mixture = Recorded(run.mixture, path, config.output, waiting)
        train(replace(run, mixture=mixture, plugins=(*run.plugins, KillAt(int(kill_at)))))


if __name__ == "__main__":
    main()
