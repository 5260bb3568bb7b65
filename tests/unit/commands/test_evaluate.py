"""What `megadga evaluate` and `generate` refuse before they load a model."""

import json
from pathlib import Path

import pytest

from megadga.cli import main
from tests.support.runs import write_reference
from tests.support.shards import write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run without weights, and the configuration of a model of transformers."""
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=1)
    write_reference(tmp_path / "run", step=5)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "a", "choices": ["b"], "answer": 0}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("evaluate none/at/all --set a=.", "none/at/all: expected the output folder of a run "),
        ("generate domains", "megadga generate: domains: expected the output folder of a run "),
        ("evaluate model --step 3 --set a=.", "--step: expected the output folder of a run"),
        ("evaluate model", "--set: expected sets or --multiple-choice, as it is no run"),
        ("evaluate run --step 3", "--step: expected one of the checkpoints in run/checkpoints, "),
        ("evaluate run --revision v2", "--revision: expected a model of Hugging Face, found the"),
        ("evaluate run --split train", "--split: expected valid without --set, found train"),
        ("evaluate run --template abc", "--template: expected {question} in it, found 'abc'"),
        ("evaluate run --multiple-choice q.jsonl", "q.jsonl:1: choices: expected at least 2, "),
        ("evaluate run.yaml --limit 3", "--limit: expected the folder of a run or model, or a"),
        ("generate run --num 2 --temperature 0", "megadga generate: --num: expected 1 at temp"),
    ],
)
def test_what_names_no_model_or_does_not_fit_it_is_one_line(folder, capsys, arguments, complaint):
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(complaint)


def test_a_model_is_evaluated_by_a_single_process(folder, capsys, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    assert main(["evaluate", "run"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line == "run: expected a single process, or a configuration file, found 2 ranks"
