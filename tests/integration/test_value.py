"""Runs with a trace on two ranks of DeepSpeed, and what their sequences were worth."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from megadga.cli import main
from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.model.llama import Llama
from megadga.run_folder.trace import open_trace, trace_path
from megadga.train.saved import open_saved
from megadga.train.weights import open_weights
from tests.support.engines import RELEASED
from tests.support.jobs import on_ranks, run_job
from tests.support.once import once
from tests.support.runs import write_run
from tests.support.shards import VOCABULARY, write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing: {type: uniform}
training: {steps: 4, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 4}
"""
SGD = "{type: SGD, params: {lr: 0.5, weight_decay: 0.01}}"
RUNS = {
    "plain": [],
    "whole": ["trace={dimension: 4}"],
    "parts": ["trace={dimension: 4}"],
    "divided": [
        *("trace={dimension: 4}", "training.steps=1", "checkpoint=null"),
        f"deepspeed.zero_optimization={json.dumps({'stage': 3, **RELEASED})}",
    ],
    "bf16": [
        *("trace={dimension: 4}", "training.steps=1", "checkpoint=null"),
        *("training.precision=bf16", "model.activation_checkpointing=true"),
    ],
    "sgd": [
        *("trace={dimension: null}", "training.steps=1", "checkpoint={interval: 1}"),
        *(f"deepspeed.optimizer={SGD}", "deepspeed.zero_allow_untested_optimizer=true"),
    ],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    def train() -> str:
        folder = tmp_path_factory.mktemp("traced")
        write_sets(folder / "shards", num_domains=3)
        write_run(folder, RUN, zero_optimization={"stage": 2}, gradient_clipping=0.1)
        worker = "tests.integration.workers.traced_runs"
        job = run_job(on_ranks(worker, json.dumps(RUNS), json.dumps(["parts"])), folder)
        assert job.code == 0, job.text
        assert re.search(r"whole/trace: \S+ GB in the end, [\d,]+ numbers", job.text)
        return str(folder)

    return Path(once(tmp_path_factory, "traced_runs", train))


def losses(run: Path) -> list[tuple[Any, ...]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["loss"], r["grad_norm"]) for r in lines if r["type"] == "train"]


def test_a_trace_leaves_no_trace_on_training(runs):
    assert losses(runs / "whole") == losses(runs / "plain")
    assert len(losses(runs / "plain")) == 4


def test_the_trace_of_a_resumed_run_is_that_of_one_without_interruption(runs):
    events = (runs / "parts" / "metrics.jsonl").read_text()
    assert '"event": "resume"' in events
    for rank in (0, 1):
        whole, parts = (trace_path(runs / name, rank).read_bytes() for name in ("whole", "parts"))
        assert whole == parts


def test_gradients_times_rates_are_the_step_that_deepspeed_takes(runs):
    run = open_saved(runs / "sgd", step=None)
    files = open_trace(runs / "sgd", num_steps=1)
    header, ranks = files[0].header, [file.read(1) for file in files]
    (_, _, norm), *_ = losses(runs / "sgd")
    assert norm > 0.1  # it was clipped
    assert isinstance(run.config.model, LlamaModel)
    model = Llama(run.config.model.shape, vocabulary_size=VOCABULARY, sequence_length=8, seed=17)
    before = dict(model.named_parameters())
    after = open_weights(run.checkpoint, run.zero_stage)
    summed = sum(each.gradients.sum(0) for each in ranks)
    parts = np.split(summed, np.cumsum(header.sizes)[:-1])
    for parameter, part, rate in zip(header.parameters, parts, ranks[0].rates, strict=True):
        start = before[parameter.name].detach()
        expected = ranks[0].kept * start - torch.from_numpy(rate * part).view(parameter.shape)
        torch.testing.assert_close(
            after[parameter.name].read(), expected.float(), rtol=1e-6, atol=1e-7
        )


def test_under_zero_3_the_trace_is_that_of_zero_2_up_to_rounding(runs):
    for whole, divided in zip(
        open_trace(runs / "whole", num_steps=1),
        open_trace(runs / "divided", num_steps=1),
        strict=True,
    ):
        expected, found = whole.read(1), divided.read(1)
        np.testing.assert_array_equal(found.windows, expected.windows)
        np.testing.assert_allclose(found.rates, expected.rates, rtol=1e-4)
        largest = abs(expected.gradients).max()
        np.testing.assert_allclose(
            found.gradients, expected.gradients, rtol=0, atol=1e-5 * largest
        )


def test_in_bf16_with_checkpointed_activations_the_trace_is_that_in_fp32_up_to_rounding(runs):
    for whole, rounded in zip(
        open_trace(runs / "whole", num_steps=1),
        open_trace(runs / "bf16", num_steps=1),
        strict=True,
    ):
        expected, found = whole.read(1).gradients, rounded.read(1).gradients
        np.testing.assert_array_equal(rounded.read(1).windows, whole.read(1).windows)
        lengths = np.linalg.norm(expected, axis=1)
        assert (np.linalg.norm(found - expected, axis=1) < 0.05 * lengths).all()


def test_values_are_told_by_domain_and_phase_and_make_a_schedule(runs, capsys):
    path, options = runs / "schedule.yaml", ("--phases", "2", "--top", "1")
    asked = ["value", str(runs / "whole"), "--target", "target", *options]

    assert main([*asked, "--schedule", str(path)]) == 0
    printed = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    saved = np.load(runs / "whole" / "values" / "target.npz")
    assert saved["values"].shape == saved["windows"].shape == (4, 8)
    total = sum(d["total"] for phase in told["phases"] for d in phase["domains"].values())
    assert total == pytest.approx(saved["values"].sum())
    assert [(phase["after"], phase["until"]) for phase in told["phases"]] == [(0, 2), (2, 4)]
    best = told["helpful"][0]
    assert best["value"] == saved["values"].max()
    assert best["documents"][0]["shard"].endswith(f"{best['domain']}/train-00000")
    assert f"{best['value']:+.3g}" in printed
    assert "under AdamW: with one rate a parameter" in printed
    # d1 resembles the target.
    assert printed.splitlines()[3].split()[0] == "d1"
    mixing = yaml.safe_load(path.read_text())["mixing"]
    assert [stage["step"] for stage in mixing["stages"]] == [0, 2]
    assert max(mixing["stages"][1]["weights"], key=mixing["stages"][1]["weights"].get) == "d1"
    load_config(runs / "run.yaml", [f"mixing={json.dumps(mixing)}", "output=other"])


def test_documents_share_what_their_sequences_were_worth(runs, capsys):
    path = runs / "documents.jsonl"
    asked = ["value", str(runs / "whole"), "--target", "target", "--top", "2"]

    assert main([*asked, "--documents", str(path)]) == 0
    printed = capsys.readouterr().out
    assert main([*asked, "--documents", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["documents"]

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values = [line["value"] for line in lines]
    saved = np.load(runs / "whole" / "values" / "target.npz")["values"]
    assert sum(values) == pytest.approx(saved.sum())
    assert values == sorted(values, reverse=True)
    assert sum(line["tokens"] for line in lines) == 4 * 8 * 8
    assert told == {"number": len(lines), "helpful": lines[:2], "harmful": lines[:-3:-1]}
    assert f"most helpful of {len(lines)}" in printed
    assert f"{values[0]:+.3g}" in printed


def test_documents_of_other_shards_than_the_run_has_seen_are_refused(runs, capsys):
    manifest = runs / "shards" / "domains" / "d0" / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(before.replace('"bin_sha256": "', '"bin_sha256": "0'))
    try:
        assert main(["value", str(runs / "whole"), "--target", "target"]) == 2
    finally:
        manifest.write_text(before)
    assert "expected the shards that the run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["whole", "--target", "other"], "--target: expected a set of the run (target) or NAME="),
        (["whole", "--target", "target", "--phases", "5"], "--phases: expected at most 4 steps"),
        (["plain", "--target", "target"], "rank-00000.trace: expected a trace, found No such"),
    ],
)
def test_what_has_no_values_is_refused_by_name(runs, capsys, options, expected):
    assert main(["value", str(runs / options[0]), *options[1:]]) == 2
    assert expected in capsys.readouterr().err
