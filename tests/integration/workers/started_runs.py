"""Starts runs, and writes down the first batch and its loss.

Run in a folder with shards and a configuration, on every rank. Takes JSON: overrides by the name
of a run. Leaves ``NAME.first.pt``: the tokens of the global batch and the mean loss.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.ranks import process_group


def main() -> None:
    runs: dict[str, list[str]] = json.loads(sys.argv[1])
    with process_group():
        for name, overrides in runs.items():
            config = load_config(Path("run.yaml"), [*overrides, f"output={name}"])
            with open_run(config) as run:
                batch = run.mixture.next_batch()
                loss = run.trainer.step(batch)["train"]["loss"]
            everyone = [torch.empty_like(batch.tokens) for _ in range(dist.get_world_size())]
            dist.all_gather(everyone, batch.tokens)
            if dist.get_rank() == 0:
                torch.save({"tokens": torch.cat(everyone), "loss": loss}, f"{name}.first.pt")


if __name__ == "__main__":
    main()
