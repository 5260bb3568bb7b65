"""Runs with monitors: the same bits as without, and one curve over all of its lives."""

import csv
import json
from pathlib import Path

import pytest

from megadga.report.history import read_all_weights
from megadga.report.records import read_metrics
from megadga.run_folder.domain_log import DOMAIN_LOG, EVALUATION, WINDOWS, read_domain_log
from tests.support.checkpoints import differing
from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import VOCABULARY, write_sets
from tests.unit.train.monitors.test_files import scalars

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 2
  step_size: 0.02
  ema: 0.5
  probe: {type: directional, sequences_per_domain: 2, specific_sequences: 4}
training: {steps: 12, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 4, sequences: 3}
checkpoint: {interval: 4, keep_last: null}
"""
MONITORS = ("monitor={tensorboard: {}, csv: {}}", "metrics.peak_flops=1.0e+9")
LAST = "checkpoints/step-00000012"
STEPS = [*range(1, 13)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run without monitors, one with them, one that is interrupted twice, and others."""
    folder: Path = tmp_path_factory.mktemp("monitored")
    write_sets(folder / "shards", num_domains=3)
    write_run(folder, RUN, zero_optimization={"stage": 2})
    runs = [
        (99, "output=plain"),
        (99, "output=whole", *MONITORS),
        (7, "output=parts", *MONITORS),
        (6, "output=parts", *MONITORS),
        (99, "output=parts", *MONITORS),
        (99, "output=fixed", "mixing={type: uniform}"),
        (99, "output=own", "deepspeed.csv_monitor={enabled: true, output_path: ds, job_name: x}"),
    ]
    worker = "tests.integration.workers.monitored_runs"
    job = run_job(on_ranks(worker, json.dumps(runs)), folder)
    assert job.code == 0, job.text
    return folder


def table(output: Path) -> list[tuple[int, str, float]]:
    with (output / "csv/metrics.csv").open(newline="") as file:
        return [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]


def test_a_run_with_monitors_has_the_bits_of_one_without(folder):
    assert differing(folder / "plain" / LAST, folder / "whole" / LAST) == []
    logs = [(folder / output / DOMAIN_LOG).read_bytes() for output in ("plain", "whole")]
    assert logs[0] == logs[1]


def test_an_interrupted_run_has_each_step_once_and_the_undisturbed_runs_values(folder):
    whole, parts = (
        [row for row in table(folder / each) if not _is_time(row[1])]
        for each in ("whole", "parts")
    )
    assert sorted(parts) == sorted(whole)
    for output in ("whole", "parts"):
        assert [s for s, n, _ in table(folder / output) if n == "train/loss"] == STEPS
        assert [s for s, _ in scalars(folder / output / "events", "train/loss")] == STEPS
    logs = [(folder / output / DOMAIN_LOG).read_bytes() for output in ("whole", "parts")]
    assert logs[0] == logs[1]


def _is_time(name: str) -> bool:
    times = ("seconds/", "checkpoint/", "train/tokens_per_s", "train/mfu", "update/probe_s")
    return name.startswith((*times, "update/observed_overhead"))


def test_tensorboard_has_what_the_metrics_have(folder):
    output = folder / "whole"
    updates = read_metrics(output / "metrics.jsonl").of("update")
    evaluations = read_metrics(output / "metrics.jsonl").of("evaluation")
    for tag, expected in {
        "update/effective_domains": [(u["step"], u["effective_domains"]) for u in updates],
        "averaged_weights/d1": [(u["step"], u["averaged_weights"]["d1"]) for u in updates],
        "alignments/d2": [(u["step"], u["alignments"]["d2"]) for u in updates],
        "standard_errors/d2": [(u["step"], u["standard_errors"]["d2"]) for u in updates],
        "evaluation/general": [(e["step"], e["general"]) for e in evaluations],
        "evaluation/specific/target": [(e["step"], e["specific"]["target"]) for e in evaluations],
    }.items():
        found = scalars(output / "events", tag)
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_the_time_of_a_step_is_divided_and_its_utilisation_is_known(folder):
    trained = read_metrics(folder / "whole/metrics.jsonl").of("train")
    for record in trained:
        seconds = record["seconds"]
        assert list(seconds)[:3] == ["data", "forward_backward", "optimizer"]
        assert ("probe" in seconds) is (record["step"] % 2 == 0)
        assert ("evaluation" in seconds) is (record["step"] % 4 == 0)
        assert all(each >= 0.0 for each in seconds.values())
    steps = [record["mfu"] / record["tokens_per_s"] for record in trained]
    assert steps == pytest.approx([_nano_flops() / (2 * 1e9)] * 12, rel=1e-2)
    assert "mfu" not in read_metrics(folder / "plain/metrics.jsonl").of("train")[0]


def _nano_flops() -> float:
    """Of two layers of width 32, with 16 for keys and values and 64 inside, on 8 tokens."""
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    return 6 * (2 * block + 32 + VOCABULARY * 32) + 12 * 2 * 32 * 8


def test_a_run_of_fixed_weights_has_what_a_report_needs(folder):
    log = read_domain_log(folder / "fixed" / DOMAIN_LOG)
    names = ("d0", "d1", "d2")

    assert log.series("averaged_weights").values.tolist() == [[1 / 3] * 3]
    assert log.series(WINDOWS).names == names
    assert log.steps("epochs") == log.steps(EVALUATION) == (4, 8, 12)
    windows, epochs = log.series(WINDOWS).values[0], log.series("epochs").values[-1]
    assert windows @ epochs == pytest.approx(12 * 8, rel=1e-6)  # 12 batches of 8


def test_the_log_has_the_weights_of_every_update_exactly(folder):
    history = read_all_weights(read_metrics(folder / "whole/metrics.jsonl"))
    updates = read_metrics(folder / "whole/metrics.jsonl").of("update")

    assert history.steps.tolist() == [update["step"] for update in updates]
    assert history.weights.tolist() == [[*u["averaged_weights"].values()] for u in updates]


def test_blocks_of_deepspeeds_settings_get_the_runs_numbers_over_samples(folder):
    files = {path.name for path in (folder / "ds/x").iterdir()}
    assert {"Train_Samples_lr.csv", "evaluation_specific_target.csv"} <= files
    with (folder / "ds/x/train_loss.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["step", "loss"]
    assert [int(step) for step, _ in lines] == [8 * step for step in STEPS]
