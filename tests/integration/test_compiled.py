"""Runs whose model torch compiles train as those that are not compiled."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing: {type: dga, interval: 2, score: raw}
training: {steps: 8, global_batch_size: 12, micro_batch_size: 3}
deepspeed: zero.json
evaluation: {interval: 4, sequences: 4}
"""


def records(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    arguments = ("megadga.cli", "train", "run.yaml", *(f"--set={each}" for each in overrides))
    ended = run_job(on_ranks(*arguments, ranks=2), folder)
    assert ended.code == 0, ended.text
    return [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
@pytest.mark.parametrize("stage", [2, 3])
def test_a_compiled_model_trains_and_is_measured_as_it_is(tmp_path, stage):
    found: list[list[dict[str, Any]]] = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        folder.mkdir()
        write_sets(folder / "shards", num_domains=3)
        write_run(folder, RUN, zero_optimization={"stage": stage}, gradient_clipping=1.0)
        found.append(records(folder, f"model.compile={compiled}"))
    for kind, keys in (("train", ("loss", "grad_norm")), ("update", ("alignments", "weights"))):
        of_kind = [[each for each in run if each["type"] == kind] for run in found]
        assert len(of_kind[0]) >= 4
        for expected, compiled in zip(*of_kind, strict=True):
            for key in keys:
                assert compiled[key] == pytest.approx(expected[key], rel=1e-3), (kind, key)
