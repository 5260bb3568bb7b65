"""A run that is judged while it trains, by records as they are logged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.report.advice import findings
from megadga.report.runs import read_run
from megadga.train.advising import Advisor

RISING = [3.0, 2.5, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1]
FALLING = [4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]
CONFIG: dict[str, Any] = {
    "seed": 0,
    "model": {"type": "llama", "sequence_length": 8},
    "data": {"specific": {"qa": {"path": "qa"}}},
    "mixing": {"type": "dga", "step_size": 1e-6, "ema": 1.0, "filtered": False, "interval": 1},
    "sampling": {"max_epochs": None},
    "training": {"steps": 100, "global_batch_size": 4},
}
NAMES = ("a", "b", "few")


def records(step: int) -> dict[str, dict[str, Any]]:
    """What a step logs: weights that stay, and from evaluations on, a domain that is memorised."""
    index = (step - 1) // 2
    losses = {"a": 2.0, "b": 2.0, "few": FALLING[index]}
    counts = {"a": 1, "b": 1, "few": 2}
    noise = np.random.default_rng(step).normal(scale=0.1, size=3)
    dots = dict(zip(NAMES, (noise + np.arange(3.0)).tolist(), strict=True))
    found: dict[str, dict[str, Any]] = {
        "train": {
            "loss": 2.0,
            "learning_rate": 0.1,
            "grad_norm": None,
            "tokens_per_s": 1.0,
            "sequences_by_domain": counts,
            "loss_by_domain": losses,
        },
        "update": {
            "alignments": dots,
            "standard_errors": dict.fromkeys(NAMES, 0.1),
            "averaged_weights": dict.fromkeys(NAMES, 1.0 / 3.0),
            "epochs": {"a": step / 100, "b": step / 100, "few": step / 8},
            "predicted_overhead": 0.1,
            "observed_overhead": 0.1,
            "probe_s": 1.0,
        },
    }
    if step % 2 == 0:
        held_out = {"a": 2.0, "b": 2.0, "few": RISING[index]}
        losses = {"specific": {"qa": 2.0}, "domains": held_out}
        found["evaluation"] = {**losses, "general": sum(held_out.values()) / 3}
    return found


START = {"event": "start", "averaged_weights": dict.fromkeys(NAMES, 1.0 / 3.0)}


class Training:
    """A run's folder, written as a run does, and what judges it.

    ``told`` has the steps and codes of the events.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        (folder / "config.yaml").write_text(json.dumps(CONFIG))
        self.told: list[tuple[int, str]] = []
        if not self.metrics.exists():
            self.write(0, {"event": START})
        self.advisor = Advisor(folder, CONFIG, metrics=self.metrics)

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def write(self, step: int, metrics: dict[str, dict[str, Any]]) -> None:
        with self.metrics.open("a") as file:
            for kind, record in metrics.items():
                file.write(json.dumps({"type": kind, "step": step, **record}) + "\n")

    def train(self, first: int, last: int) -> list[tuple[int, str]]:
        for step in range(first, last + 1):
            found = self.advisor.observe(step, records(step))
            self.write(step, records(step))
            for event in found:
                self.write(step, {"event": event})
                self.told.append((step, event["finding"]))
        return self.told

    def cut_after(self, step: int) -> None:
        """Do what a resume or a rewind does to the metrics."""
        lines = self.metrics.read_text().splitlines(keepends=True)
        self.metrics.write_text(
            "".join(each for each in lines if json.loads(each)["step"] <= step)
        )


# A tenth of the run is trained at 10. Updates are enough at 16, and the validation loss has risen
# by more than 0.05 at two evaluations and beyond the noise at 14.
EVERYTHING = [(10, "runs_out"), (14, "memorised"), (16, "step_size_small")]


@pytest.fixture
def whole(tmp_path) -> Training:
    return Training(tmp_path / "whole")


def test_findings_are_events_once_each(whole):
    assert whole.train(1, 20) == EVERYTHING


def test_they_are_those_of_the_folder_afterwards(whole):
    told = whole.train(1, 20)
    assert {code for _, code in told} == {each.code for each in findings(read_run(whole.folder))}


@pytest.mark.parametrize("step", [6, 14, 15])
def test_a_run_that_goes_on_is_told_what_is_new(tmp_path, step):
    parts = Training(tmp_path / "parts")
    parts.train(1, step)
    told = parts.told
    after = Training(tmp_path / "parts")
    assert told + after.train(step + 1, 20) == EVERYTHING


def test_a_run_that_goes_back_is_told_again_what_was_cut(whole):
    whole.train(1, 15)
    whole.cut_after(12)
    assert whole.train(13, 20) == [*EVERYTHING[:2], *EVERYTHING[1:]]


def test_without_evaluations_it_is_judged_every_64_updates(whole):
    for step in range(1, 65):
        found = {kind: record for kind, record in records(2).items() if kind != "evaluation"}
        told = whole.advisor.observe(step, found)
        assert [event["finding"] for event in told] == (["step_size_small"] if step == 64 else [])


def test_an_error_ends_the_advice_and_not_the_run(whole):
    broken = {"evaluation": {"specific": {}}}
    (event,) = whole.advisor.observe(1, broken)
    assert event == {"event": "advice_failed", "reason": "KeyError: 'general'"}
    assert whole.advisor.observe(2, broken) == []


def test_domains_that_change_begin_anew(whole):
    whole.train(1, 12)
    for step in (13, 14, 15, 16):
        metrics = records(step)
        for kind in metrics:
            metrics[kind] = json.loads(json.dumps(metrics[kind]).replace('"few"', '"new"'))
        whole.advisor.observe(step, metrics)
    assert whole.told == EVERYTHING[:1]
