"""`megadga compare` and `megadga advise` on folders of runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from megadga.cli import main

CONFIG = """\
seed: {seed}
output: {output}
model: {{type: llama, sequence_length: 8}}
data: {{specific: {{qa: {{path: qa}}}}}}
mixing: {{type: {rule}}}
training: {{steps: 20, global_batch_size: 4}}
"""
RISING = [3.0, 2.5, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1]
FALLING = [4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]


def write(folder: Path, *records: dict[str, Any], rule: str = "uniform", seed: int = 0) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed, output=folder, rule=rule))
    start = {"type": "event", "step": 0, "event": "start", "averaged_weights": {"a": 1.0}}
    text = "".join(json.dumps(each) + "\n" for each in (start, *records))
    (folder / "metrics.jsonl").write_text(text)
    return folder


def train(step: int, loss: float = 2.0) -> dict[str, Any]:
    numbers = {"loss": loss, "learning_rate": 0.1, "grad_norm": None, "tokens_per_s": 8.0}
    by_domain = {"sequences_by_domain": {"a": 4}, "loss_by_domain": {"a": loss}}
    return {"type": "train", "step": step, **numbers, **by_domain}


def evaluated(step: int, qa: float, a: float) -> dict[str, Any]:
    losses = {"specific": {"qa": qa}, "domains": {"a": a}, "general": a}
    return {"type": "evaluation", "step": step, **losses}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for seed, loss in enumerate((2.0, 2.5)):
        write(Path(f"uniform-{seed}"), train(20), evaluated(20, loss, 3.0), seed=seed)
    write(Path("odm"), train(20), evaluated(20, 1.5, 2.0), rule="odm")
    return ["uniform-0", "uniform-1", "odm"]


def test_runs_are_printed_side_by_side(runs, capsys):
    assert main(["compare", *runs]) == 0
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    table = {cells[0]: cells[1:] for cells in lines}
    assert table["measure"] == ["uniform (2 seeds)", "odm"]
    assert table["loss (qa)"] == ["2.2500 ± 0.2500", "1.5000"]
    assert table["tokens to the first's best (qa)"] == ["640 (1.00x)", "640 (1.00x)"]
    assert table["trained tokens"] == ["640 ± 0", "640"]
    assert table["mixing.type"] == ["uniform", "odm"]
    assert ["- Losses, weights and repetition are those after 640 tokens, step 20."] in lines


def test_markdown_is_a_table_that_github_draws(runs, capsys):
    assert main(["compare", "--markdown", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["measure", "uniform (2 seeds)", "odm"]
    assert set(lines[1]) == set("|-")
    assert ["loss (qa)", "2.2500 ± 0.2500", "1.5000"] in rows


def test_json_has_every_number(runs, capsys):
    assert main(["compare", "--json", *runs]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 640
    assert [group["name"] for group in found["groups"]] == ["uniform", "odm"]
    assert found["groups"][0]["runs"][1] == {
        "folder": "uniform-1",
        "seed": 1,
        "step": 20,
        "total_steps": 20,
    }
    assert found["measures"][0] == {
        "measure": "loss (qa)",
        "unit": "nats",
        "cells": [
            {"mean": 2.25, "standard_error": 0.25, "number": 2},
            {"mean": 1.5, "standard_error": None, "number": 1},
        ],
    }


def test_what_is_no_run_is_one_line(runs, capsys):
    assert main(["compare", *runs, "nothing"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "megadga compare: nothing: expected a run's output folder, found none"


def memorising(folder: Path) -> Path:
    steps = range(1, 11)
    records = [
        record
        for step, held_out, loss in zip(steps, RISING, FALLING, strict=True)
        for record in (train(step, loss), evaluated(step, 2.0, held_out))
    ]
    return write(folder, *records)


def test_advice_is_a_paragraph_for_each_finding(tmp_path, capsys):
    run = memorising(tmp_path / "run")
    assert main(["advise", str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("step 10, memorised: Domains are being memorised: a (validation loss")
    assert max(map(len, out.splitlines())) <= 99
    assert "not judged: runs_out (needs passes over domains" in err


def test_a_healthy_run_is_told_to_be_one(tmp_path, capsys):
    run = write(tmp_path / "run", train(1), evaluated(1, 2.0, 3.0))
    assert main(["advise", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: nothing to change at step 1\n"


def test_what_was_found_and_is_not_any_more_is_told_apart(tmp_path, capsys):
    advice = {"type": "event", "step": 1, "event": "advice", "finding": "leak", "text": "Look."}
    run = write(tmp_path / "run", train(1), advice, train(2))
    assert main(["advise", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "earlier, leak: Look."
    assert main(["advise", "--json", str(run)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == []
    assert found["earlier"] == [{"code": "leak", "step": 1, "text": "Look."}]
    assert {each["code"] for each in found["not_judged"]} == {"memorised", "runs_out"}
