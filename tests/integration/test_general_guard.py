"""A run whose validation losses rise: the guard begins, and a resumed run still has it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import alone, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: tiny, sequence_length: 8}
data:
  domains: domains
  specific: {target: {path: specific}}
mixing:
  type: dga
  preset: paper
  interval: 1
  step_size: 0.02
  general_guard: {max_rise: 1.0e-6, pull: 0.5}
  probe: {sequences_per_domain: 2, specific_sequences: 3}
training: {steps: 6, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 1, sequences: 3}
checkpoint: {interval: 1, keep_last: 1}
"""
# Large enough for losses to rise.
OPTIMIZER = {"type": "AdamW", "params": {"lr": 0.05, "torch_adam": True}}
TIMES = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Two folders with the same run."""
    data = write_sets(tmp_path / "data", num_domains=2)
    found = []
    for name in ("whole", "parts"):
        folder = tmp_path / name
        folder.mkdir()
        for part in ("domains", "specific"):
            (folder / part).symlink_to(data / part)
        write_run(folder, RUN, optimizer=OPTIMIZER)
        found.append(folder)
    return found


def train(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Train to the end and return all records, but for times."""
    arguments = [f"--set={override}" for override in overrides]
    job = run_job(alone("megadga.cli", "train", "run.yaml", *arguments), folder)
    assert job.code == 0, job.text
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in record.items() if key not in TIMES}
        for record in records
        if record["type"] != "checkpoint" and record.get("event") != "resume"
    ]


def expected_states(records: list[dict[str, Any]]) -> list[bool]:
    """Whether the loss before each update was above the best until then."""
    losses = [record["general"] for record in records if record["type"] == "evaluation"]
    risen = [loss > min(losses[: i + 1]) + 1e-6 for i, loss in enumerate(losses)]
    return [False, *risen[:-1]]  # an update comes before the evaluation of its step


def test_the_guard_begins_where_the_loss_has_risen_and_a_resumed_run_still_has_it(folders):
    whole, parts = folders
    records = train(whole)

    told = [record["general_guard"] for record in records if record["type"] == "update"]
    assert told == expected_states(records)
    assert {True, False} == set(told)
    events = [(r["step"], r["event"]) for r in records if r["type"] == "event" and r["step"] > 0]
    changes = [step for step in range(2, 7) if told[step - 1] != told[step - 2]]
    assert events == [
        (step, f"general_guard_{'on' if told[step - 1] else 'off'}") for step in changes
    ]

    # Stopped where the guard is on, and the best loss is further back than the last.
    stop = next(step for step in range(2, 6) if told[step - 1] and told[step])
    train(parts, f"training.steps={stop}")
    continued = train(parts)
    (changed,) = (each for each in continued if each.get("event") == "changed")
    assert changed["keys"] == {"training.steps": [stop, 6]}
    assert [each for each in continued if each is not changed] == records
