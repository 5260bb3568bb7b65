"""What is said of a run at its end."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from megadga.data.order import WindowOrder
from megadga.report.runs import read_run
from megadga.report.summary import summarize, summary_lines
from megadga.run_folder.checkpoints import mark_best, mark_latest
from megadga.run_folder.domains import DomainContents, DomainRecord, domain_files

CONFIG = """\
model: {sequence_length: 8}
data: {specific: {qa: {path: shards/qa}}}
training: {steps: 4, global_batch_size: 4}
checkpoint: {interval: 2, keep_best: {loss: qa, number: 1}}
"""


def train(step: int, loss: float | None) -> dict[str, Any]:
    by_domain = {"sequences_by_domain": {"a": 4}, "loss_by_domain": {"a": loss}}
    # 32 tokens at 16 tokens/s: a step takes 2 s.
    return {"type": "train", "step": step, "loss": loss, "tokens_per_s": 16.0, **by_domain}


def evaluation(step: int, qa: float, general: float, more: float) -> dict[str, Any]:
    losses = {"specific": {"qa": qa, "more": more}, "domains": {"a": general}, "general": general}
    return {"type": "evaluation", "step": step, **losses}


def update(step: int, **weights: float) -> dict[str, Any]:
    cost = {"predicted_overhead": 0.2, "observed_overhead": 0.3, "probe_s": 0.5}
    return {"type": "update", "step": step, "averaged_weights": weights, **cost}


def event(step: int, kind: str, **values: Any) -> dict[str, Any]:
    return {"type": "event", "step": step, "event": kind, **values}


START = event(0, "start", averaged_weights={"a": 0.25, "b": 0.25, "c": 0.5})


def write_run(folder: Path, *records: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def write_checkpoints(folder: Path) -> None:
    """Write those of steps 2, the best, and 4; domain a has been read 2.5 times, c 1.25 times."""
    sizes, cursors = np.array([4, 8, 8]), np.array([10, 8, 10])
    record = DomainRecord(
        contents=DomainContents(("a", "b", "c"), 8 * sizes, np.arange(3, dtype=np.uint64)),
        order=WindowOrder.of(sizes),
        cursors=cursors,
        weights=np.full(3, 1 / 3),
        averaged_weights=np.full(3, 1 / 3),
        rule="dga",
        step=4,
        num_updates=2,
        num_skipped=0,
        revision=0,
        basis={},
    )
    for step in (2, 4):
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "megadga.json").write_text("{}")
        for name, content in domain_files(record).items():
            (checkpoint / name).write_bytes(content)
    mark_latest(folder / "checkpoints/step-00000004")
    mark_best(folder / "checkpoints", folder / "checkpoints/step-00000002")


def told(folder: Path) -> list[str]:
    return list(summary_lines(summarize(read_run(folder))))


def test_a_finished_run_is_summarised_with_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(
        Path("my run"),
        START,
        train(1, 6.0),
        train(2, 5.0),
        update(2, a=0.5, b=0.25, c=0.25),
        evaluation(2, 3.0, 4.5, 2.0),
        event(2, "resume", checkpoint="step-00000002"),
        event(3, "loss_spike"),
        event(3, "loss_spike"),
        train(3, None),
        train(4, 4.0),
        update(4, a=0.5, b=0.125, c=0.375),
        event(4, "advice", finding="general", text="The general loss pays for qa."),
        evaluation(4, 3.5, 4.0, 1.0),
    )
    write_checkpoints(folder)

    assert told(folder) == [
        "my run: step 4 of 4, finished",
        "",
        "loss       first  at    best  at    last  at",
        "qa        3.0000   2  3.0000   2  3.5000   4",
        "more      2.0000   2  1.0000   4  1.0000   4",
        "general   4.5000   2  4.0000   4  4.0000   4",
        "training  6.0000   1  4.0000   4  4.0000   4",
        "",
        "weight   start     now   change",
        "a       0.2500  0.5000  +0.2500",
        "b       0.2500  0.1250  -0.1250",
        "c       0.5000  0.3750  -0.1250",
        "",
        "best step    2",
        "repeated     a 2.50, c 1.25 epochs",
        "measuring    12.5% of training time, 20.0% predicted",  # 2 x 0.5 s of 4 x 2 s
        "time         9.0 s, 128 tokens, 16 tokens/s",
        "events       loss_spike 2",
        "checkpoints  latest step-00000004, best step-00000002, 1 other",
        "advice       The general loss pays for qa.",
        "next         megadga report 'my run'",
        "             megadga compare 'my run' OTHER_RUN",
        "             megadga export 'my run' 'my run-hf' --step best",
    ]


def test_a_run_that_was_stopped_early_has_little_to_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(write_run(Path("new"), START, train(1, 6.0))) == [
        "new: step 1 of 4, not finished",
        "",
        "loss       first  at    best  at    last  at",
        "training  6.0000   1  6.0000   1  6.0000   1",
        "",
        "time  2.0 s, 32 tokens, 16 tokens/s",
        "next  megadga report new",
        "      megadga compare new OTHER_RUN",
    ]


def test_of_many_domains_three_gains_and_three_losses_are_told(tmp_path):
    before = {f"d{number}": 0.1 for number in range(10)}
    after = {f"d{number}": 0.1 + 0.01 * (number - 4.5) for number in range(10)}
    start = event(0, "start", averaged_weights=before)
    folder = write_run(tmp_path / "many", start, train(1, 6.0), update(1, **after))

    summary = summarize(read_run(folder))

    assert [change.name for change in summary.gains] == ["d9", "d8", "d7"]
    assert [change.name for change in summary.drops] == ["d0", "d1", "d2"]


def test_the_general_loss_says_which_step_is_best_without_specific_sets(tmp_path):
    evaluations = [evaluation(2, 9.0, 4.0, 1.0), evaluation(4, 3.0, 5.0, 0.5)]
    for each in evaluations:
        each["specific"] = {}
    folder = write_run(tmp_path / "general", START, train(1, 6.0), *evaluations)
    assert summarize(read_run(folder)).best_step == 2
