"""Trains one run either in megadga's loop or in the example's, and notes what came of it."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch.distributed as dist

from megadga.config.deepspeed import deepspeed_settings
from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.model.llama import Llama
from megadga.plugin import MixturePlugin
from megadga.train.assembly import open_run
from megadga.train.data import open_data
from megadga.train.loop import train
from megadga.train.ranks import process_group
from megadga.train.trainer import Trainer
from tests.support.engines import fingerprint, full_parameters
from tests.support.ranks import REPOSITORY


def outcome(engine: Any, mixture: MixturePlugin) -> dict[str, Any]:
    return {
        "step": mixture.step,
        "weights": mixture.weights.tolist(),
        "epochs": mixture.epochs.tolist(),
        "parameters": fingerprint(full_parameters(engine)),
    }


def in_megadgas_loop(config: RunConfig) -> dict[str, Any]:
    with open_run(config) as run:
        train(run)
        assert isinstance(run.trainer, Trainer)
        return outcome(run.trainer._engine, run.mixture)


def in_the_examples_loop(config: RunConfig) -> dict[str, Any]:
    assert isinstance(config.model, LlamaModel)
    data = open_data(config)
    with process_group():
        model = Llama(
            config.model.shape,
            vocabulary_size=data.vocabulary_size,
            sequence_length=config.model.sequence_length,
            seed=config.seed,
        )
        settings = deepspeed_settings(config, dist.get_world_size())
        engine, mixture = example().train(
            model, settings, data.domains, data.specific, config.training.steps
        )
        return outcome(engine, mixture)


def example() -> ModuleType:
    path = REPOSITORY / "docs/examples/plain_deepspeed.py"
    spec = importlib.util.spec_from_file_location("plain_deepspeed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(output: str, config_path: str, loop: str) -> None:
    config = load_config(Path(config_path))
    loops = {"megadga": in_megadgas_loop, "example": in_the_examples_loop}
    found = loops[loop](config)
    if int(os.environ["RANK"]) == 0:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
