"""Trains runs one after the other, some of which end early and go on; notes what has failed.

Run in a folder with shards and a configuration. Takes JSON: a list of overrides for each run.
"""

import json
import sys
from pathlib import Path

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group


class InterruptedRunError(Exception):
    """What ends a run in the middle of a step, as a kill does."""


class EndAt:
    """A plugin that ends the process's work on a run after a step."""

    name = "end"

    def __init__(self, step):
        self.at = step

    def after_step(self, step):
        if step == self.at:
            raise InterruptedRunError
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def attempt(end_at: int, overrides: list[str]) -> None:
    try:
        with open_run(load_config(Path("run.yaml"), overrides)) as run:
            run.plugins = (*run.plugins, EndAt(end_at))
            train(run)
    except InterruptedRunError:
        pass


def main() -> None:
    with process_group():
        for end_at, *overrides in json.loads(sys.argv[1]):
            attempt(end_at, overrides)


if __name__ == "__main__":
    main()
