"""Trains runs one after the other, each to its end; some are stopped on the way and resumed.

Run in a folder with shards and a configuration, on every rank. Takes JSON: overrides by the name
of a run; names of runs that are stopped after their second step.
"""

import json
import sys
from pathlib import Path

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group

_STOPPED_AFTER = 2


def main() -> None:
    runs: dict[str, list[str]] = json.loads(sys.argv[1])
    stopped: list[str] = json.loads(sys.argv[2])
    with process_group():
        for name, overrides in runs.items():
            config = load_config(Path("run.yaml"), [*overrides, f"output={name}"])
            if name in stopped:
                asked = iter(range(1, 99))
                with open_run(
                    config, stop_requested=lambda asked=asked: next(asked) >= _STOPPED_AFTER
                ) as run:
                    assert not train(run)
                    assert run.mixture.step < config.training.steps
            with open_run(config) as run:
                assert train(run)


if __name__ == "__main__":
    main()
