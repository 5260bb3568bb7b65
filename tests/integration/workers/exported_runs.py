"""Trains small runs to export, and writes down what their optimizers hold at the end.

Run in a folder with shards and a configuration, on every rank. Takes JSON: overrides by the name
of a run. Beside a run's folder ``NAME`` it leaves ``NAME.weights.pt``: master weights by name.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group
from megadga.train.trainer import Trainer


def main() -> None:
    runs: dict[str, list[str]] = json.loads(sys.argv[1])
    with process_group():
        for name, overrides in runs.items():
            config = load_config(Path("run.yaml"), [*overrides, f"output={name}"])
            with open_run(config) as run:
                train(run)
                assert isinstance(run.trainer, Trainer)
                weights = masters(run.trainer._engine)
            if torch.distributed.get_rank() == 0:
                torch.save(weights, f"{name}.weights.pt")


def masters(engine: Any) -> dict[str, torch.Tensor]:
    """Return the optimizer's weights, and the model's where it has no others. Collective."""
    found: dict[str, torch.Tensor] = {}
    # Of ZeRO-0 in bf16, in the order of the parameters.
    whole = iter(getattr(engine.optimizer, "fp32_groups", [[]])[0])
    for name, parameter in engine.module.named_parameters():
        master = safe_get_full_fp32_param(parameter)
        found[name] = (next(whole, parameter) if master is None else master).detach().clone()
    return found


if __name__ == "__main__":
    main()
