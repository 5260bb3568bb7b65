"""Trains with every kind of rule, whole and in two parts, and compares their ends.

Run in a folder with shards and a configuration; prints one JSON object.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from megadga.build.ranks import process_group
from megadga.build.run import open_run
from megadga.config.loading import load_config
from megadga.train.loop import train
from tests.support.checkpoints import differing

BEYOND_CHECKPOINT = 4
"""Steps of the first part; its checkpoint is of the step before."""
TIMES = ("tokens_per_s", "probe_s", "observed_overhead")


def main() -> None:
    rules: dict[str, list[str]] = json.loads(sys.argv[1])
    with process_group():
        print(json.dumps({name: compare(name, rules[name]) for name in rules}))


def compare(name: str, overrides: list[str]) -> dict[str, Any]:
    """Return what differs in the end, and how often the mixture moved."""
    whole, parts = (load(f"{name}-{part}", overrides) for part in ("whole", "parts"))
    with open_run(whole) as run:
        train(run)
    with open_run(parts) as run:
        train(replace(run, total_steps=BEYOND_CHECKPOINT))
    with open_run(parts) as run:
        resumed_at = run.mixture.step
        train(run)
    records = [logged(config.output) for config in (whole, parts)]
    checkpoint = f"step-{whole.training.steps:08d}"
    return {
        "resumed_at": resumed_at,
        "updates": sum(record["type"] == "update" for record in records[0]),
        "records_equal": records[0] == records[1],
        "differing": differing(
            *(config.output / "checkpoints" / checkpoint for config in (whole, parts))
        ),
    }


def load(output: str, overrides: list[str]) -> Any:
    return load_config(Path("run.yaml"), [*overrides, f"output={output}"])


def logged(output: Path) -> list[dict[str, Any]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return [record for record in records if record["type"] != "event"]


if __name__ == "__main__":
    main()
