"""`megadga batch` on a run's folder that no engine has written."""

import json
from pathlib import Path

import numpy as np
import pytest

from megadga.cli import main
from megadga.commands.batch import _texts
from megadga.config.loading import load_config
from megadga.data.located import DocumentPart
from megadga.report.sampling import BatchLayout, SamplerRecord, sampler_values
from megadga.train.data import open_training
from megadga.train.replay import shards_digest
from tests.support.runs import RUN, write_run
from tests.support.shards import write_domain, write_sets

DGA = "  type: dga\n  interval: 4\n  step_size: 0.5\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two domains that has logged its start."""
    write_sets(tmp_path, num_domains=2)
    config = load_config(write_run(tmp_path, RUN.replace(DGA, "  type: uniform\n")))
    _, _, identity = open_training(config)
    layout = BatchLayout(2, 2, 8, 8, 17, "systematic", None, None, shards_digest(identity))
    record = SamplerRecord(0, np.zeros(2, dtype=np.int64), np.full(2, 0.5), False, layout)
    config.output.mkdir()
    (config.output / "config.yaml").write_text(config.to_yaml())
    line = {"type": "sampler", "step": 0, **sampler_values(record)}
    (config.output / "metrics.jsonl").write_text(f"{json.dumps(line)}\n")
    return config.output


def test_windows_that_were_drawn_by_their_norms_are_not_planned_again(run, capsys):
    config = run / "config.yaml"
    found = config.read_text()
    again = found.replace("type: uniform", "{type: gradient_norm, resample: {}}", 1)
    config.write_text(again)
    assert main(["batch", str(run), "--step", "3"]) == 2
    told = capsys.readouterr().err
    assert "mixing.resample: expected null: which windows were drawn" in told
    assert "found {uniform_share: 0.2}" in told


def test_a_step_to_come_is_a_table_of_its_sequences(run, capsys):
    assert main(["batch", str(run), "--step", "3"]) == 0
    printed = capsys.readouterr()
    heading, titles, *rows = printed.out.splitlines()
    assert heading == (
        "step 3 of 10: not trained yet; exact, unless weights are set by hand before"
    )
    columns = ["row", "rank", "micro", "domain", "window", "epoch", "loss", "documents", "text"]
    assert titles.split() == columns
    assert [row.split()[:3] for row in rows] == [
        [str(row), str(row // 2 % 2), str(row // 4)] for row in range(8)
    ]
    assert "no text: the tokenizer's file is not kept with the shards" in printed.err


def test_sequences_are_chosen_by_row_and_by_domain(run, capsys):
    options = ["--step", "3", "--json", "--rows", "0-2,5"]
    assert main(["batch", str(run), *options]) == 0
    every = json.loads(capsys.readouterr().out)["sequences"]
    assert [each["row"] for each in every] == [0, 1, 2, 5]
    assert all(len(each["tokens"]) == 9 for each in every)
    assert main(["batch", str(run), *options, "--domain", "d1"]) == 0
    of_one = json.loads(capsys.readouterr().out)["sequences"]
    assert of_one == [each for each in every if each["domain"] == "d1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--step", "11"], "--step: expected a step from 1 to 10, found 11"),
        (["--step", "3", "--rows", "7-8"], "--rows: expected rows from 0 to 7"),
        (["--step", "3", "--domain", "d11"], "found 'd11'; did you mean 'd1'?"),
    ],
)
def test_what_there_is_not_is_an_error_of_a_line(run, capsys, options, message):
    assert main(["batch", str(run), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_shards_in_the_same_place_are_an_error(run, capsys):
    domain = run.parent / "domains/d1"
    for file in domain.iterdir():
        file.unlink()
    domain.rmdir()
    write_domain(domain, seed=77)
    assert main(["batch", str(run), "--step", "3"]) == 2
    assert "expected the shards that the step is trained on, found others" in (
        capsys.readouterr().err
    )


def test_a_window_is_decoded_document_by_document():
    parts = [
        DocumentPart(Path("train-00000"), number, begin, end, 9)
        for number, begin, end in ((4, 7, 9), (5, 0, 3))
    ]
    ids = np.arange(5)
    assert list(_texts(parts, ids, lambda ids: str(ids.tolist()))) == ["[0, 1]", "[2, 3, 4]"]
