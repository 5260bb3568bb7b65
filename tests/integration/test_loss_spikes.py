"""A batch that is nothing like those before it, and what runs do about it."""

import json
from pathlib import Path
from typing import Any

import pytest

from megadga.run_folder.rewinds import Rewind, read_rewinds, write_rewinds
from tests.support.checkpoints import differing
from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data: {domains: shards/domains}
mixing:
  type: schedule
  stages:
    - {step: 0, weights: {d0: 1.0, d1: 0.0}}
    - {step: 20, weights: {d0: 0.0, d1: 1.0}}
    - {step: 21, weights: {d0: 1.0, d1: 0.0}}
training: {steps: 24, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 8, keep_last: null}
watch: {loss_spike: {sigma: 6.0, window: 8}}
"""
SPIKE = 21
"""Steps are counted from 1: the batch of this one is drawn by the second stage."""
LAST = "checkpoints/step-00000024"
WORKER = "tests.integration.workers.watched_runs"
RUNS = {
    name: [f"output={name}", f"watch.loss_spike.on_spike={action}"]
    for name, action in (
        *(("warn", "warn"), ("skip", "skip"), ("rewind", "rewind")),
        *(("stop", "stop"), ("limited", "rewind")),
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("spikes")
    write_sets(folder / "shards", num_domains=2)
    optimizer = {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}}
    write_run(folder, RUN, optimizer=optimizer, zero_optimization={"stage": 2})
    return folder


@pytest.fixture(scope="module")
def ended(folder):
    """What each run has raised, on each rank."""
    (folder / "limited").mkdir()
    runs = [*RUNS.values()]
    # Without a checkpoint there is nothing to go back to.
    runs[-1] = [*runs[-1], "checkpoint.interval=100"]
    return dict(zip(RUNS, zip(*_attempt(folder, runs), strict=True), strict=True))


def _attempt(folder: Path, runs: list[list[str]]) -> list[list[str]]:
    job = run_job(on_ranks(WORKER, json.dumps(runs)), folder)
    assert job.code == 0, job.text
    return json.loads((folder / "ended.json").read_text())


def events(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == kind]


def steps(output: Path) -> list[int]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["type"] == "train"]


@pytest.mark.parametrize("name", ["warn", "skip", "rewind", "stop"])
def test_a_spike_is_an_event_with_its_domains_and_windows(folder, ended, name):
    output = folder / name
    found = events(output, "loss_spike")
    if name == "rewind":  # what is beyond the checkpoint is set aside
        assert found == []
        lines = (output / "metrics.abandoned.jsonl").read_text().splitlines()
        found = [e for e in map(json.loads, lines) if e.get("event") == "loss_spike"]
    first = found[0]
    assert (first["step"], first["action"]) == (SPIKE, name)
    assert first["sigmas"] > 6.0
    assert first["loss"] == pytest.approx(first["expected"] + first["sigmas"] * first["deviation"])
    assert first["sequences_by_domain"] == {"d1": 8}
    assert len(first["windows"]) == 8
    assert {domain for domain, _, _ in first["windows"]} == {"d1"}
    losses = [loss for _, _, loss in first["windows"]]
    assert losses == sorted(losses, reverse=True)
    assert sum(losses) / 8 == pytest.approx(first["loss"])


def test_skipping_and_going_back_leave_the_batch_out_with_the_same_bits(folder, ended):
    assert ended["skip"] == ended["rewind"] == ended["warn"] == ("", "")
    assert differing(folder / "skip" / LAST, folder / "rewind" / LAST) == []
    assert differing(folder / "skip" / LAST, folder / "warn" / LAST) != []
    assert steps(folder / "skip") == steps(folder / "rewind") == [*range(1, 25)]


def test_going_back_is_told_of_where_it_leads(folder, ended):
    (event,) = events(folder / "rewind", "rewind")
    assert (event["step"], event["from_step"], event["left_out"]) == (16, SPIKE, [SPIKE])
    assert event["checkpoint"] == "step-00000016"
    (left_out,) = events(folder / "rewind", "batch_left_out")
    assert left_out["step"] == SPIKE
    (rewind,) = read_rewinds(folder / "rewind")
    assert rewind.left_out == (SPIKE,)


def test_a_stopped_run_ends_on_every_rank_and_keeps_what_it_had(folder, ended):
    first, second = ended["stop"]
    assert first == second
    assert first.startswith("LossSpikeError: step 21: a loss of ")
    assert first.endswith(
        "the newest one is stop/checkpoints/step-00000016; "
        "--set watch.loss_spike.on_spike=skip goes on without the batch"
    )
    assert not (folder / "stop/DONE").exists()


def test_a_run_without_a_checkpoint_cannot_go_back(ended):
    assert ended["limited"][0].endswith("expected a checkpoint to go back to, found none yet")


def test_a_run_that_died_on_its_way_back_leaves_the_batch_out_when_it_is_resumed(folder, ended):
    output = folder / "stop"
    write_rewinds(output, (Rewind(SPIKE, "step-00000016", (SPIKE,), "a loss"),))

    ends = _attempt(folder, [["output=stop", "watch.loss_spike.on_spike=rewind"]])

    assert ends == [[""], [""]]
    assert differing(folder / "skip" / LAST, output / LAST) == []
    (event,) = events(output, "rewind")
    assert (event["step"], event["left_out"]) == (16, [SPIKE])
