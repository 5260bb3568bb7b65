"""Trains like the command line, until every rank kills itself in the middle of a step."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train


class KillAt:
    """A plugin that ends its process as a scheduler would: without a word."""

    name = "kill"

    def __init__(self, step):
        self.step = step

    def after_step(self, step):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise NotImplementedError


def main() -> None:
    config, step, *overrides = sys.argv[1:]
    with open_run(load_config(Path(config), overrides)) as run:
        train(replace(run, plugins=(*run.plugins, KillAt(int(step)))))


if __name__ == "__main__":
    main()
