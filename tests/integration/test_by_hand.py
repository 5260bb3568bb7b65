"""A run on two ranks whose mixture is set by hand, that dies, continues, and is asked for its batches."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.cli import main
from tests.support.jobs import Finished, on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

STEPS, CHECKPOINT, KILLED = 26, 10, 17
RUN = f"""\
seed: 17
output: out
model: {{type: llama, preset: nano, sequence_length: 8}}
data:
  domains: shards/domains
  specific: {{target: {{path: shards/specific}}}}
mixing:
  type: dga
  preset: paper
  interval: 3
  step_size: 0.02
  ema: 0.5
  probe: {{type: sharded, sequences_per_domain: 2, specific_sequences: 3}}
sampling: {{max_epochs: 1.2}}
training: {{steps: {STEPS}, global_batch_size: 8, micro_batch_size: 2}}
deepspeed: zero.json
checkpoint: {{interval: {CHECKPOINT}, keep_last: 2}}
"""
WORKER = "tests.integration.workers.recorded_run"
TIMES = ("tokens_per_s", "probe_s", "observed_overhead")
SET_AT, FREEZE_AT = 5, 13
Batch = dict[str, Any]


def in_background(folder: Path, record: str, waits: list[int], kill_at: int) -> Future[Finished]:
    arguments = (WORKER, "run.yaml", record, json.dumps(waits), str(kill_at))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run_job, on_ranks(*arguments), folder)


def records(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    lines = (folder / "out" / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def recorded(folder: Path, name: str) -> dict[int, list[Batch]]:
    """What each rank has trained on, by step."""
    ranks = [
        [json.loads(line) for line in (folder / f"{name}-{rank}.jsonl").open()] for rank in (0, 1)
    ]
    return {of_ranks[0]["step"]: [*of_ranks] for of_ranks in zip(*ranks, strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, after two lives: killed in step 17, with requests in steps 5 and 13."""
    folder = tmp_path_factory.mktemp("by hand")
    write_sets(folder / "shards", num_domains=3)
    write_run(folder, RUN)
    out = str(folder / "out")
    with ThreadPoolExecutor(1) as pool:
        arguments = (WORKER, "run.yaml", "first", json.dumps([SET_AT, FREEZE_AT]), str(KILLED))
        job = pool.submit(run_job, on_ranks(*arguments), folder)
        while not (folder / "first-0.jsonl").exists():
            assert not job.done(), job.result().text
        assert main(["mixture", "set", out, "d0=0.7", "d2=0.05"]) == 0
        assert main(["mixture", "set", out, "d7=0.7"]) == 2
        assert main(["mixture", "freeze", out]) == 0
        killed = job.result()
    assert killed.code != 0
    again = run_job(on_ranks(WORKER, "run.yaml", "second", "[]", "0"), folder)
    assert again.code == 0, again.text
    return folder


def test_all_ranks_train_at_the_new_weights_from_the_same_step(folder):
    batches = recorded(folder, "first")
    (event,) = [e for e in records(folder) if e.get("event") == "mixture_set"]
    first_of_new = event["step"] + 1

    assert event["weights"] == {"d0": 0.7, "d2": 0.05}
    assert event["step"] >= SET_AT
    for of_rank in batches[first_of_new]:
        np.testing.assert_allclose(of_rank["weights"], [0.7, 0.25, 0.05], atol=1e-12)
    for of_rank in batches[first_of_new - 1]:
        assert of_rank["weights"][0] < 0.5
    print(event)
