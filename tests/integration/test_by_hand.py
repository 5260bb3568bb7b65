"""A run on two ranks: its mixture set by hand, a crash, and its batches planned again."""

import json
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.cli import main
from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

STEPS, INTERVAL, CHECKPOINT, KILLED = 26, 3, 10, 17
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
  interval: {INTERVAL}
  step_size: 0.02
  ema: 0.5
  probe: {{type: sharded, sequences_per_domain: 2, specific_sequences: 3}}
sampling: {{max_epochs: 1.2}}
training: {{steps: {STEPS}, global_batch_size: 8, micro_batch_size: 2}}
deepspeed: zero.json
checkpoint: {{interval: {CHECKPOINT}, keep_last: 2}}
"""
WORKER = "tests.integration.workers.recorded_run"
TIMES = ("tokens_per_s", "seconds", "probe_s", "observed_overhead")
Record = dict[str, Any]
SET_AT, REFUSED_AT, FREEZE_AT, RELEASE_AT = 5, 8, 13, 20


@contextmanager
def training(
    folder: Path, record: str, waits: list[int], kill_at: int
) -> Generator[tuple[Future[Any], Callable[..., int]]]:
    """A run that waits for requests before some steps.

    Yields:
        How it will have ended; and the command line, used when the run waits before the next step.
    """
    out, waiting = str(folder / "out"), iter(waits)
    arguments = (WORKER, "run.yaml", record, json.dumps(waits), str(kill_at))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run_job, on_ranks(*arguments), folder)

        def ask(action: str, *weights: str) -> int:
            waits_now = folder / f"{record}-0.waits-before-{next(waiting)}"
            while not waits_now.exists():
                assert not job.done(), job.result().text
                time.sleep(0.02)
            return main(["mixture", action, out, *weights])

        yield job, ask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder after two lives: killed in step 17, with requests in both."""
    folder = tmp_path_factory.mktemp("by hand")
    write_sets(folder / "shards", num_domains=3)
    write_run(folder, RUN)
    with training(folder, "first", [SET_AT, REFUSED_AT, FREEZE_AT], KILLED) as (job, ask):
        assert ask("set", "d0=0.7", "d2=0.05") == 0
        assert ask("set", "d00=0.7") == 2
        assert ask("freeze") == 0
        job.result()
    with training(folder, "second", [RELEASE_AT], 0) as (job, ask):
        assert ask("release") == 0
        finished = job.result()
        assert finished.code == 0, finished.text
    return folder


def records(folder: Path, name: str = "metrics.jsonl") -> list[Record]:
    lines = (folder / "out" / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def event(folder: Path, name: str) -> Record:
    (found,) = [record for record in records(folder) if record.get("event") == name]
    return found


def recorded(folder: Path, name: str) -> dict[int, list[Record]]:
    """What each rank has trained on, by step."""
    files = [(folder / f"{name}-{rank}.jsonl").read_text() for rank in (0, 1)]
    ranks = [[json.loads(line) for line in text.splitlines()] for text in files]
    return {of_ranks[0]["step"]: [*of_ranks] for of_ranks in zip(*ranks, strict=True)}


def planned(folder: Path, step: int, capsys: pytest.CaptureFixture[str]) -> Record:
    capsys.readouterr()
    assert main(["batch", str(folder / "out"), "--step", str(step), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_ranks_train_at_the_weights_that_were_set_from_the_same_step(folder):
    batches, told = recorded(folder, "first"), event(folder, "mixture_set")
    first_of_new = told["step"] + 1

    assert told["weights"] == {"d0": 0.7, "d2": 0.05}
    assert told["before"]["d0"] < 0.5
    assert told["by"]
    assert told["step"] == SET_AT
    for of_rank in batches[first_of_new]:
        np.testing.assert_allclose(of_rank["weights"], [0.7, 0.25, 0.05], rtol=1e-12)
    for of_rank in batches[told["step"]]:
        assert of_rank["weights"][0] == told["before"]["d0"]


def test_a_request_that_is_refused_says_why_and_changes_nothing(folder):
    told = event(folder, "mixture_request_refused")

    assert told["error"] == "d00: expected one of the 3 names, found none; did you mean 'd0'?"
    before, after = (recorded(folder, "first")[told["step"] + i][0] for i in (0, 1))
    updated = told["step"] % INTERVAL == 0
    assert updated or before["weights"] == after["weights"]


def test_a_frozen_mixture_stays_and_counts_its_updates_until_it_is_released(folder):
    frozen, released = event(folder, "mixture_frozen"), event(folder, "mixture_released")
    batches = recorded(folder, "first") | recorded(folder, "second")
    steps = range(frozen["step"] + 1, released["step"] + 2)
    skipped = [r["step"] for r in records(folder) if r.get("reason") == "frozen by hand"]
    updates = [r["step"] for r in records(folder) if r["type"] == "update"]

    assert {tuple(batches[step][0]["weights"]) for step in steps} == {
        tuple(batches[frozen["step"] + 1][0]["weights"])
    }
    assert skipped == [step for step in steps[:-1] if step % INTERVAL == 0]
    assert not {*updates} & {*skipped}
    assert max(updates) > released["step"]
    assert batches[STEPS][0]["weights"] != batches[released["step"]][0]["weights"]


def test_requests_are_applied_again_after_a_crash_at_the_same_step(folder):
    abandoned = records(folder, "metrics.abandoned.jsonl")
    lost = {record["step"] for record in abandoned}
    again = [r for r in records(folder) if r["step"] in lost and r.get("event") != "resume"]

    assert lost == set(range(CHECKPOINT + 1, KILLED))
    assert event(folder, "mixture_frozen")["step"] in lost
    assert again == abandoned
    first, second = recorded(folder, "first"), recorded(folder, "second")
    for step in lost:
        assert second[step] == first[step]


def test_every_batch_is_planned_again_as_it_was_trained(folder, capsys):
    trained = recorded(folder, "first") | recorded(folder, "second")
    for step in range(1, STEPS + 1):
        found = planned(folder, step, capsys)
        assert found["trained"]
        assert found["exact"]
        assert [each["row"] for each in found["sequences"]] == list(range(8))
        for each in found["sequences"]:
            batch = trained[step][each["rank"]]
            at = np.argwhere(np.array(batch["rows"]) == each["row"])[0].tolist()
            assert at[0] == each["micro_batch"]
            assert f"d{batch['domains'][at[0]][at[1]]}" == each["domain"]
            assert batch["windows"][at[0]][at[1]] == each["window"]
            assert batch["tokens"][at[0]][at[1]] == each["tokens"]
