"""Writes small runs to load: a YAML file and DeepSpeed's JSON beside it."""

import json
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.run_folder.checkpoints import CheckpointHeader, mark_latest, write_header
from megadga.train.data import open_data

RUN = """\
seed: 17
output: out
model: {type: llama, preset: tiny, sequence_length: 8}
data:
  domains: domains
  specific: {target: {path: specific}}
mixing:
  type: dga
  interval: 4
  step_size: 0.5
training: {steps: 10, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
"""

DEEPSPEED: dict[str, Any] = {
    "zero_optimization": {"stage": 1},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}


def write_run(folder: Path, text: str = RUN, **settings: Any) -> Path:
    """Write ``run.yaml``, and ``zero.json`` with ``settings`` on top of the needed ones."""
    (folder / "zero.json").write_text(json.dumps({**DEEPSPEED, **settings}, indent=2))
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def write_reference(folder: Path, *overrides: str, step: int) -> Path:
    """Write what a run of ``RUN`` leaves behind, but for the weights; its data must be there."""
    config = load_config(write_run(folder.parent), overrides)
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    identity = {**config.identity(), "shards": open_data(config).identity}
    write_header(checkpoint, CheckpointHeader(step, 0, identity, files={}))
    mark_latest(checkpoint)
    return checkpoint
