"""Trains runs of which one rank is tampered with; notes how each has ended.

Run in a folder with shards and a configuration, on every rank. Takes JSON: what is done to rank 1
after which step, by the output of a run. Leaves ``NAME.txt`` of each rank: what it has raised.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megadga.config.loading import load_config
from megadga.errors import MegadgaError
from megadga.train.assembly import open_run
from megadga.train.loop import Run, train
from megadga.train.ranks import process_group


class Tamper:
    """A plugin that does something to rank 1 alone, after a step."""

    name = "tamper"

    def __init__(self, run: Run, what: str, step: int):
        self.run = run
        self.what = what
        self.step = step

    def after_step(self, step):
        if step == self.step and dist.get_rank() == 1:
            getattr(self, self.what)()
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise NotImplementedError

    def weights(self):
        mixture: Any = self.run.mixture
        changed = np.nextafter(mixture._mixture.averaged_weights, 1.0)
        mixture._mixture = replace(mixture._mixture, averaged_weights=changed)

    def batch(self):
        batches: Any = self.run.mixture._batches  # type: ignore[attr-defined]
        batches.seek(replace(batches.state, cursors=batches.state.cursors + 1))

    def parameter(self):
        engine: Any = self.run.trainer._engine  # type: ignore[attr-defined]
        last = [*engine.module.parameters()][-1].data.view(-1)
        last.view(torch.int32)[0] ^= 1  # one bit

    def stopped(self):
        os.kill(os.getpid(), signal.SIGSTOP)


def main() -> None:
    cases: dict[str, tuple[str, int, list[str]]] = json.loads(sys.argv[1])
    with process_group():
        for name, (what, step, overrides) in cases.items():
            ended = "nothing"
            try:
                config = load_config(Path("run.yaml"), [f"output={name}", *overrides])
                with open_run(config) as run:
                    plugins = (*run.plugins, Tamper(run, what, step))
                    train(replace(run, plugins=plugins))
            except MegadgaError as error:
                ended = f"{type(error).__name__}: {error}"
            Path(f"{name}-{dist.get_rank()}.txt").write_text(ended)


if __name__ == "__main__":
    main()
