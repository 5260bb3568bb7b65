"""Trains runs in two parts, of which the second has other settings of the optimizer.

Run as one process in a folder with shards and a configuration. Takes JSON: by the name of a case
the overrides of the first part, and those of the second. Prints JSON: what the optimizer steps
with, and the learning rates, of the second part and of a run that always had its settings.
"""

import json
import sys
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.train.assembly import open_run
from megadga.train.loop import train
from megadga.train.ranks import process_group

CHEAP = ("mixing={type: uniform}", "evaluation=null", "training.micro_batch_size=12")
STEPS = (3, 6)


def part(name: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Train up to a step; return what of the optimizer is not its state."""
    config = load_config(
        Path("run.yaml"), [*CHEAP, *overrides, f"output={name}", f"training.steps={steps}"]
    )
    with open_run(config) as run:
        resumable: Any = run.checkpoints._engine
        optimizer = resumable._engine.optimizer
        options = [
            {key: group[key] for key in ("betas", "weight_decay")}
            for group in optimizer.param_groups
        ]
        clipping = getattr(optimizer, "clip_grad", None)
        train(run)
    lines = map(json.loads, (config.output / "metrics.jsonl").read_text().splitlines())
    rates = {r["step"]: r["learning_rate"] for r in lines if r["type"] == "train"}
    return {"options": options, "clipping": clipping, "rates": list(rates.values())}


def main() -> None:
    cases: dict[str, list[list[str]]] = json.loads(sys.argv[1])
    found: dict[str, Any] = {}
    with process_group():
        for name, (before, after) in cases.items():
            part(name, before, STEPS[0])
            resumed = part(name, after, STEPS[1])
            always = part(f"{name}-always", after, STEPS[1])
            changed = [
                json.loads(line)["keys"]
                for line in Path(name, "metrics.jsonl").read_text().splitlines()
                if '"changed"' in line
            ]
            found[name] = {"resumed": resumed, "always": always, "changed": changed}
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
