"""Runs that go wrong in known ways, and one that does not: real training, and what is said."""

import json
from pathlib import Path

import pytest

from megadga.report.advice import findings, judge
from megadga.report.runs import read_run
from tests.support.jobs import alone, run_job
from tests.support.once import once
from tests.support.planted import write_planted
from tests.support.runs import write_run

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, num_layers: 1, sequence_length: 16}
data:
  domains: data/domains
  specific: {target: {path: data/target}}
mixing:
  type: dga
  preset: paper
  interval: 3
  step_size: 0.1
  ema: 0.5
  probe: {sequences_per_domain: 4, specific_sequences: 16}
training: {steps: 80, global_batch_size: 8, micro_batch_size: 8}
deepspeed: zero.json
evaluation: {interval: 5, sequences: 16}
checkpoint: null
"""
OPTIMIZER = {"type": "AdamW", "params": {"lr": 5e-3, "torch_adam": True}}
D0 = "{name: d0, path: data/domains/d0}"
CASES: dict[str, list[str]] = {
    "healthy": [],
    "step_size_small": ["mixing.step_size=1.0e-6"],
    # Mirror descent adds up what it measures: with a target of two domains it runs to and fro.
    "step_size_large": [
        "data.specific={target: {path: data/both}}",
        "mixing.step_size=10.0",
        "mixing.ema=1.0",
    ],
    "noise": [
        "data.domains=data/alike",
        "mixing.interval=1",
        "mixing.probe={sequences_per_domain: 2, specific_sequences: 4}",
    ],
    "memorised": [
        f"data.domains=[{D0}, {{name: few, path: data/few}}]",
        "mixing={type: static, weights: uniform}",
    ],
    "leak": [
        f"data.domains=[{D0}, {{name: leaky, path: data/leaky}}]",
        "mixing={type: static, weights: {d0: 0.3, leaky: 0.7}}",
    ],
}
REPEATED = {"memorised", "leak"}
"""Runs with a domain of a few documents, which runs out as well."""
TIMED = "overhead"
"""What may be found on a machine that has other things to do at times."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a run of each case."""

    def train() -> str:
        folder = tmp_path_factory.mktemp("advice")
        write_planted(folder / "data")
        write_run(folder, RUN, optimizer=OPTIMIZER)
        overrides = [[f"output={name}", *case] for name, case in CASES.items()]
        worker = "tests.integration.workers.watched_runs"
        job = run_job(alone(worker, json.dumps(overrides)), folder)
        assert job.code == 0, job.text
        assert json.loads((folder / "ended.json").read_text()) == [[""] * len(CASES)]
        (folder / "log.txt").write_text(job.text)
        return str(folder)

    return Path(once(tmp_path_factory, "advice", train))


def test_a_healthy_run_has_no_findings_though_all_but_one_were_looked_for(runs):
    run = read_run(runs / "healthy")
    assert {each.code for each in judge(run)} <= {TIMED}
    assert {event.values["finding"] for event in run.of_kind("advice")} <= {TIMED}


@pytest.mark.parametrize("code", [name for name in CASES if name != "healthy"])
def test_what_is_wrong_is_named_while_the_run_trains_and_afterwards(runs, code):
    run = read_run(runs / code)
    found = {each.code: each for each in findings(run)}
    assert code in found
    assert found.keys() <= {code, TIMED, *({"runs_out"} if code in REPEATED else ())}
    told = [event.values["finding"] for event in run.of_kind("advice")]
    assert code in told
    assert len(set(told)) == len(told)
    assert {*told, TIMED} == {*found, TIMED}


def test_the_domain_and_the_set_are_named(runs):
    texts = {
        code: " ".join(each.text for each in findings(read_run(runs / code)) if each.code == code)
        for code in REPEATED
    }
    assert "few (validation loss from" in texts["memorised"]
    assert "target went from" in texts["leak"]
    assert "--leakage`" in texts["leak"]


def test_the_console_shows_what_is_found(runs):
    lines = (runs / "log.txt").read_text().splitlines()
    assert any("advice" in line and "Validation text seems to be in" in line for line in lines)
