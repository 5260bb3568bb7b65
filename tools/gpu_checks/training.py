"""Two runs as `megadga train` makes them, with DGA and with uniform weights, in turns."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.report.records import read_metrics
from megadga.train.assembly import open_run
from megadga.train.loop import Run, train

from .environment import synchronize
from .setting import Deadline, Row, Setting

_MIXING = {"dga": "{type: dga}", "uniform": "{type: static, weights: uniform}"}
_RUN = """\
seed: 0
output: {output}
model: {{type: llama, preset: {preset}, sequence_length: {length}}}
data: {{domains: {shards}/domains, specific: {{target: {{path: {specific}}}}}}}
mixing: {mixing}
training: {{steps: 1000000, global_batch_size: {batch}, micro_batch_size: {micro},
  precision: {precision}}}
deepspeed:
  zero_optimization: {{stage: 2}}
  gradient_clipping: 1.0
  optimizer: {{type: AdamW, params: {{torch_adam: true, fused: true, lr: {rate},
    betas: [0.9, 0.95], weight_decay: 0.1}}}}
  scheduler: {{type: WarmupLR, params: {{warmup_num_steps: {interval}, warmup_max_lr: {rate}}}}}
evaluation: {{interval: {interval}, sequences: {sequences}}}
checkpoint: null
"""


def training(setting: Setting, deadline: Deadline) -> Iterator[Row]:
    """Yield a row after each interval of both runs, for as long as there is time."""
    interval = 2 if setting.quick else 20
    paths = {name: _write(setting, name, interval) for name in _MIXING}
    with ExitStack() as stack:
        runs = {
            name: stack.enter_context(open_run(load_config(path))) for name, path in paths.items()
        }
        slowest, rounds = 0.0, 0
        while deadline.left_s > 2.0 * slowest and not (setting.quick and rounds == 1):
            start = time.monotonic()
            names = list(runs)[:: -1 if rounds % 2 else 1]
            seconds = {name: _interval(runs[name], interval, setting) for name in names}
            slowest = max(slowest, time.monotonic() - start)
            rounds += 1
            for name in runs:
                yield {
                    "check": "training",
                    "run": name,
                    "step": rounds * interval,
                    "seconds": seconds[name],
                    "overhead": seconds[name] / seconds["uniform"] - 1.0,
                    **_recorded(setting.scratch / name / "metrics.jsonl"),
                }


def _interval(run: Run, interval: int, setting: Setting) -> float:
    """Train one interval with its update and its evaluation; return its seconds."""
    synchronize(setting)
    start = time.perf_counter()
    train(replace(run, total_steps=run.mixture.step + interval))
    synchronize(setting)
    return time.perf_counter() - start


def _recorded(metrics: Path) -> Row:
    """Return the last losses, speed and weights that a run has written down."""
    evaluation = read_metrics(metrics).of("evaluation")[-1]
    last = read_metrics(metrics).of("train")[-1]
    found: dict[str, Any] = {
        "loss": last["loss"],
        "tokens_per_s": last["tokens_per_s"],
        "specific": evaluation["specific"]["target"],
        "general": evaluation["general"],
    }
    if updates := read_metrics(metrics).of("update"):
        found["averaged_weights"] = updates[-1]["averaged_weights"]
        found["observed_overhead"] = updates[-1]["observed_overhead"]
        found["predicted_overhead"] = updates[-1]["predicted_overhead"]
    return found


def target_shard(setting: Setting) -> Path:
    """Return the folder of the specific set; beside it may be its tokenizer."""
    (folder,) = (path for path in (setting.shards / "specific").iterdir() if path.is_dir())
    return folder


def _write(setting: Setting, name: str, interval: int) -> Path:
    text = _RUN.format(
        output=json.dumps(str(setting.scratch / name)),
        preset="tiny" if setting.quick else "125m",
        length=8 if setting.quick else 1024,
        shards=setting.shards,
        specific=json.dumps(str(target_shard(setting))),
        mixing=_MIXING[name],
        batch=4 if setting.quick else 64,
        micro=2 if setting.quick else 16,
        precision="fp32" if setting.quick else "bf16",
        rate="1.0e-3" if setting.quick else "6.0e-4",
        interval=interval,
        sequences=2 if setting.quick else 32,
    )
    path = setting.scratch / f"{name}.yaml"
    path.write_text(text)
    return path
