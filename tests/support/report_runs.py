"""Folders of runs for tests of reports: made up, of any size, with what a report reads.

`python -m tests.support.report_runs FOLDER --domains 4096` writes one to look at.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megadga.arrays import FloatArray


@dataclass(frozen=True)
class MadeRun:
    """What a made run is like.

    Attributes:
        names: Of the domains.
        steps: Optimizer steps that are logged.
        total_steps: Those of the whole run; None: as many.
        interval: Steps between updates, and between evaluations.
        seed: Of all numbers, and in the configuration.
        fixed: Whether the weights are.
    """

    names: tuple[str, ...]
    steps: int = 40
    total_steps: int | None = None
    interval: int = 5
    seed: int = 0
    fixed: bool = False


def domain_names(number: int) -> tuple[str, ...]:
    return tuple(f"c{index:04}" for index in range(number))


def write_run_folder(folder: Path, run: MadeRun) -> Path:
    """Write a run's configuration and metrics, and return the folder."""
    folder.mkdir(parents=True)
    rule: dict[str, Any] = (
        {"type": "static"} if run.fixed else {"type": "dga", "interval": run.interval}
    )
    config = {
        "seed": run.seed,
        "output": str(folder),
        "model": {"type": "llama", "sequence_length": 128},
        "data": {"specific": {"qa": {"path": "qa"}}},
        "mixing": rule,
        "training": {"steps": run.total_steps or run.steps, "global_batch_size": 8},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records(run))
    return folder


def records(run: MadeRun) -> Iterable[dict[str, Any]]:
    """Yield a run's records: random walks of weights, and losses that fall."""
    rng = np.random.default_rng((run.seed, len(run.names)))
    names = run.names
    weights = np.full(len(names), 1.0 / len(names))
    epochs = np.zeros(len(names))
    yield {"type": "event", "step": 0, "event": "start", "averaged_weights": named(names, weights)}
    for step in range(1, run.steps + 1):
        yield {"type": "train", "step": step, **trained(names, weights, step, rng)}
        epochs += 20.0 * weights / run.steps
        if step % run.interval:
            continue
        if not run.fixed:
            alignments = rng.normal(0.1, 1.0, len(names))
            weights = weights * np.exp(0.3 * alignments)
            weights /= weights.sum()
            yield {"type": "update", "step": step, **updated(names, weights, alignments, epochs)}
        losses = 3.0 + 4.0 * np.exp(-step / run.steps) + 0.1 * rng.random(len(names))
        yield {
            "type": "evaluation",
            "step": step,
            "specific": {"qa": float(losses.min())},
            "domains": named(names, losses),
            "general": float(losses.mean()),
        }
    yield {"type": "event", "step": run.steps, "event": "resume", "checkpoint": "step-00000010"}


def trained(
    names: tuple[str, ...], weights: FloatArray, step: int, rng: np.random.Generator
) -> dict[str, Any]:
    drawn = rng.choice(len(names), size=8, p=weights)
    counts = {names[index]: int((drawn == index).sum()) for index in sorted(set(drawn.tolist()))}
    loss = 4.0 + 4.0 / (1.0 + 0.05 * step) + 0.2 * float(rng.normal())
    return {
        "loss": loss,
        "learning_rate": 0.001,
        "grad_norm": 1.0 + float(rng.random()),
        "tokens_per_s": 1000.0 + 100.0 * float(rng.normal()),
        "mfu": 0.4 + 0.01 * float(rng.normal()),
        "seconds": {
            "data": 0.01,
            "forward_backward": 0.7 + 0.1 * float(rng.random()),
            "optimizer": 0.1,
        },
        "sequences_by_domain": counts,
        "loss_by_domain": dict.fromkeys(counts, loss),
    }


def updated(
    names: tuple[str, ...], weights: FloatArray, alignments: FloatArray, epochs: FloatArray
) -> dict[str, Any]:
    return {
        "alignments": named(names, alignments),
        "standard_errors": named(names, np.full(len(names), 0.25)),
        "gradient_norms": named(names, np.full(len(names), 4.0)),
        "specific_gradient_norm": 2.0,
        "averaged_weights": named(names, weights),
        "epochs": named(names, epochs),
        "predicted_overhead": 0.01,
        "observed_overhead": 0.012,
        "probe_s": 0.1,
    }


def named(names: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--domains", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--interval", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = domain_names(options.domains)
    made = MadeRun(names, steps=options.steps, interval=options.interval, seed=options.seed)
    write_run_folder(options.folder, made)


if __name__ == "__main__":
    main()
