"""A run that is stopped and resumed against one that never stops: equal to the bit."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from megadga.config.loading import load_config
from megadga.report.records import read_metrics
from megadga.train.assembly import open_run
from megadga.train.loop import train

from .setting import Deadline, Row, Setting
from .training import target_shard

STEPS = 8
_STOPS: dict[str, Sequence[int]] = {"never": (STEPS,), "halfway": (STEPS // 2, STEPS)}
_RUN = """\
seed: 0
output: {output}
model: {{type: llama, preset: {preset}, sequence_length: {length}}}
data: {{domains: {domains}, specific: {{target: {{path: {specific}}}}}}}
mixing: {{type: dga, interval: 2, probe: {{type: {probe}}}}}
training: {{steps: 1000000, global_batch_size: 8, micro_batch_size: 2, precision: {precision}}}
deepspeed:
  zero_optimization: {{stage: {stage}}}
  optimizer: {{type: AdamW, params: {{torch_adam: true, lr: 1.0e-3}}}}
evaluation: {{interval: 4, sequences: 4}}
checkpoint: {{interval: 4}}
"""


def resuming(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield whether losses, weights and evaluations are those of a run that never stopped.

    Under deterministic algorithms and SDPA's flash kernel, as `no_trace`.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts, which is later
    torch.use_deterministic_algorithms(True)
    memory: Any = torch.utils.deterministic
    memory.fill_uninitialized_memory = False  # filling ZeRO's buffers takes seconds a step
    precision = "fp32" if setting.device == "cpu" else "bf16"
    cases = [(stage, probe) for stage in (2, 3) for probe in ("in_flight", "directional")]
    try:
        for stage, probe in cases[:1] if setting.quick else cases:
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
                found = [
                    _trained(setting, stops, stage=stage, probe=probe, precision=precision)
                    for stops in _STOPS
                ]
            yield {
                "check": "resuming",
                "stage": stage,
                "probe": probe,
                "precision": precision,
                "steps": STEPS,
                "equal": found[0] == found[1],
            }
    finally:
        memory.fill_uninitialized_memory = True
        torch.use_deterministic_algorithms(False)


def _trained(
    setting: Setting, stops: str, *, stage: int, probe: str, precision: str
) -> dict[str, list[Any]]:
    """Return what a run of ``STEPS`` steps has written down, opened once per stop."""
    output = setting.scratch / f"resuming-{stage}-{probe}-{stops}"
    path = output.with_suffix(".yaml")
    path.write_text(
        _RUN.format(
            output=json.dumps(str(output)),
            preset="tiny",
            length=8 if setting.quick else 128,
            domains=json.dumps(str(setting.shards / "domains")),
            specific=json.dumps(str(target_shard(setting))),
            stage=stage,
            probe=probe,
            precision=precision,
        )
    )
    for total_steps in _STOPS[stops]:
        with open_run(load_config(path)) as run:
            train(replace(run, total_steps=total_steps))
    return _recorded(output / "metrics.jsonl")


def _recorded(metrics: Path) -> dict[str, list[Any]]:
    records = read_metrics(metrics)
    keys = {
        "train": ("step", "loss", "grad_norm"),
        "update": ("step", "alignments", "averaged_weights"),
        "evaluation": ("step", "specific", "general"),
    }
    return {
        kind: [[record[key] for key in keys[kind]] for record in records.of(kind)] for kind in keys
    }
