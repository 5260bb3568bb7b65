"""Trains runs one after the other in one process group; notes how each has ended.

Run in a folder with shards and a configuration, on every rank. Takes JSON: a list of overrides,
``output`` among them. Leaves ``ended.json``: on each rank, what each run has raised, or "".
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from megadga.config.loading import load_config
from megadga.errors import MegadgaError
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group


def attempt(overrides: list[str]) -> str:
    try:
        with open_run(load_config(Path("run.yaml"), overrides)) as run:
            train(run)
    except MegadgaError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    with process_group():
        ended = [attempt(overrides) for overrides in json.loads(sys.argv[1])]
        everyone = [ended] * dist.get_world_size()
        dist.all_gather_object(everyone, ended)
        if dist.get_rank() == 0:
            Path("ended.json").write_text(json.dumps(everyone))


if __name__ == "__main__":
    main()
