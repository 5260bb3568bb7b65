"""Trains with every kind of rule, whole and in two parts, and compares their ends.

Then makes finished runs longer, and evaluates one on a set that it has not seen. Run in a folder
with shards and a configuration; prints one JSON object.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import evaluate, train
from megadga.train.ranks import process_group
from tests.support.checkpoints import differing

BEYOND_CHECKPOINT = 4
"""Steps of the first part; its checkpoint is of the step before."""
TIMES = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")


def main() -> None:
    rules: dict[str, list[str]] = json.loads(sys.argv[1])
    schedules: dict[str, list[str]] = json.loads(sys.argv[2])
    with process_group():
        found: dict[str, Any] = {name: compare(name, rules[name]) for name in rules}
        longer = {name: lengthen(name, schedules[name]) for name in schedules}
        new_set = evaluate_anew(f"{next(iter(schedules))}-longer", next(iter(schedules.values())))
        print(json.dumps({"rules": found, "longer": longer, "evaluated": new_set}))


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


def lengthen(name: str, overrides: list[str]) -> dict[str, Any]:
    """Finish a run, and go on for as long again; return its learning rates and a whole one's.

    Rates are of the steps from the second new one on: the first has the one that was computed
    when the run was finished.
    """
    output = f"{name}-longer"
    with open_run(load(output, [*overrides, "training.steps=4"])) as run:
        train(run)
    with open_run(load(output, [*overrides, "training.steps=8"])) as run:
        resumed_at = run.mixture.step
        train(run)
    whole = load(f"{name}-long", [*overrides, "training.steps=8"])
    with open_run(whole) as run:
        train(run)
    rates, expected = (
        [r["learning_rate"] for r in logged(Path(each)) if r["type"] == "train"][5:]
        for each in (output, f"{name}-long")
    )
    events = [json.loads(line) for line in (Path(output) / "metrics.jsonl").open()]
    return {
        "resumed_at": resumed_at,
        "rates": rates,
        "expected": expected,
        "changed": [each["keys"] for each in events if each.get("event") == "changed"],
        "done": (Path(output) / "DONE").exists(),
    }


def evaluate_anew(output: str, overrides: list[str]) -> dict[str, Any]:
    """Evaluate a finished run on one more set; return what it says, and what became of the run."""
    before = (Path(output) / "metrics.jsonl").read_text()
    added = "evaluation.sets={new: {path: shards/specific, packing: examples}}"
    with open_run(
        load(output, [*overrides, "training.steps=8", added]), evaluate_only=True
    ) as run:
        step, metrics = run.mixture.step, evaluate(run)
    after = (Path(output) / "metrics.jsonl").read_text()
    return {
        "step": step,
        "sets": list(metrics["evaluation"]["specific"]),
        "finite": all(0.0 < loss < 100.0 for loss in metrics["evaluation"]["specific"].values()),
        "done": (Path(output) / "DONE").exists(),
        "kept": after.startswith(before),
    }


def load(output: str, overrides: list[str]) -> Any:
    return load_config(Path("run.yaml"), [*overrides, f"output={output}"])


def logged(output: Path) -> list[dict[str, Any]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return [record for record in records if record["type"] not in ("event", "checkpoint")]


if __name__ == "__main__":
    main()
