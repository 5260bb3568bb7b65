import json
from typing import Any

import pytest

from megadga.demo.folder import SPECIFIC, DemoFolder
from megadga.demo.run import run_demo
from megadga.demo.runs import RUNS
from megadga.errors import ConfigError
from megadga.prepare.training import train_tokenizer

STEPS = 50


def words(first):
    """Return 200 words of letters, those of one number and of the numbers after it."""
    numbers = (str(1000 + first + number) for number in range(200))
    return " ".join("".join(chr(ord("a") + int(digit)) for digit in each) for each in numbers)


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.fixture
def prepared(tmp_path):
    """A demo whose text and tokenizer, small ones, are there already."""
    folder = DemoFolder(tmp_path / "demo")
    for name in ("a", "b"):
        texts = [{"text": words(first)} for first in range(20)]
        write_lines(folder.documents / "domains" / f"{name}.jsonl", texts)
    for split in ("train", "valid"):
        path = folder.documents / "specific" / f"{SPECIFIC}.{split}.jsonl"
        write_lines(path, [{"text": words(500)}])
    train_tokenizer([words(0)], vocab_size=300, prefix=folder.tokenizer.with_suffix(""))
    return folder


def finish(folder, run, loss):
    train: dict[str, Any] = {
        "type": "train",
        "step": STEPS,
        "loss": 2.0,
        "learning_rate": 0.0,
        "grad_norm": 1.0,
    }
    train |= {"tokens_per_s": 1.0, "sequences_by_domain": {"a": 3, "b": 5}}
    train["loss_by_domain"] = {"a": 2.0, "b": 2.0}
    by_domain = {"a": 0.25, "b": 0.75}
    update = {"type": "update", "step": STEPS, "averaged_weights": by_domain}
    update["alignments"] = by_domain
    losses = {"specific": {SPECIFIC: loss}, "domains": {"a": 2.0, "b": 2.0}, "general": 2.0}
    evaluation = {"type": "evaluation", "step": STEPS, **losses}
    start = {"type": "event", "step": 0, "event": "start", "averaged_weights": by_domain}
    write_lines(folder.metrics(run), [start, train, update, evaluation])
    config = {
        "model": {"sequence_length": 8},
        "training": {"steps": STEPS, "global_batch_size": 8},
    }
    (folder.run(run) / "config.yaml").write_text(json.dumps(config))  # JSON is YAML


def test_runs_that_are_finished_are_compared_and_not_trained_again(prepared):
    for run, loss in zip(RUNS, (1.5, 2.0), strict=True):
        finish(prepared, run, loss)
    told = []
    run_demo(prepared.root, steps=STEPS, report=told.append)
    assert [line for line in told if "already trained" in line] == [
        f"{prepared.run(run)}: already trained" for run in RUNS
    ]
    assert any(line.split() == ["specific", "set", "1.5000", "2.0000", "-0.5000"] for line in told)
    assert all(image.stat().st_size > 0 for image in (*prepared.images, prepared.page))
    assert all(prepared.config(run).exists() for run in RUNS)


def test_shards_that_are_there_are_not_built_again(prepared):
    for run in RUNS:
        finish(prepared, run, 1.0)
    run_demo(prepared.root, steps=STEPS, report=lambda _: None)
    manifests = sorted(prepared.root.glob("shards/*/*/manifest.json"))
    before = [manifest.stat().st_mtime_ns for manifest in manifests]
    run_demo(prepared.root, steps=STEPS, report=lambda _: None)
    assert len(manifests) == 3
    assert [manifest.stat().st_mtime_ns for manifest in manifests] == before


def test_options_are_checked_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="steps: expected at least 20, found 1"):
        run_demo(tmp_path / "demo", steps=1)
    assert not (tmp_path / "demo").exists()
