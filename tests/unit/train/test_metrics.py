import json
from types import SimpleNamespace
from typing import Any

import pytest

from megadga.errors import ResumeError
from megadga.train.metrics import MetricFanOut, MetricsFile


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_record_is_a_line_with_type_and_step(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")

    metrics.log(7, {"train": {"loss": 0.1}, "update": {"weights": {"a": 0.25, "b": 0.75}}})

    assert read(tmp_path / "metrics.jsonl") == [
        {"type": "train", "step": 7, "loss": 0.1},
        {"type": "update", "step": 7, "weights": {"a": 0.25, "b": 0.75}},
    ]


def test_numbers_come_back_with_their_bits(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    awkward = [0.1 + 0.2, 1e-300, 2.0**-1074, 1 / 3]

    for number in awkward:
        metrics.log(1, {"train": {"loss": number}})

    assert [line["loss"] for line in read(tmp_path / "metrics.jsonl")] == awkward


def test_non_finite_numbers_are_null_and_listed(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")

    metrics.log(3, {"train": {"loss": float("nan"), "by": {"a": 1.0, "b": float("inf")}}})

    assert read(tmp_path / "metrics.jsonl") == [
        {"type": "train", "step": 3, "loss": None, "by": {"a": 1.0, "b": None}},
        {
            "type": "event",
            "step": 3,
            "event": "not_finite",
            "record": "train",
            "keys": ["loss", "by.b"],
        },
    ]


def test_truncated_metrics_are_moved_to_another_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.log(1, {"train": {"loss": 1.0}})
    length = metrics.sync()
    metrics.log(2, {"train": {"loss": 2.0}})
    with path.open("ab") as file:
        file.write(b'{"type": "tr')  # killed while it wrote

    resumed = MetricsFile(path)
    resumed.cut(length)
    resumed.log(2, {"train": {"loss": 3.0}})

    abandoned = (tmp_path / "metrics.abandoned.jsonl").read_text()
    assert [line["loss"] for line in read(path)] == [1.0, 3.0]
    assert abandoned == '{"type": "train", "step": 2, "loss": 2.0}\n{"type": "tr\n'


def test_a_second_truncation_appends_to_that_file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for loss in (1.0, 2.0):
        metrics.log(1, {"train": {"loss": loss}})
        metrics.cut(0)

    assert [line["loss"] for line in read(tmp_path / "metrics.abandoned.jsonl")] == [1.0, 2.0]
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_truncation_of_nothing_creates_no_file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log(1, {"train": {"loss": 1.0}})

    metrics.cut(metrics.sync())

    assert not (tmp_path / "metrics.abandoned.jsonl").exists()


def test_a_file_shorter_than_at_the_checkpoint_is_refused(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")

    with pytest.raises(ResumeError, match=r"metrics\.jsonl: expected at least 10 bytes.* found 0"):
        metrics.cut(10)


def test_records_are_forwarded_to_all_sinks_in_order():
    told = []

    class Sink:
        def __init__(self, name):
            self.name = name

        def log(self, step, metrics):
            told.append((self.name, step, metrics))

    MetricFanOut([Sink("file"), Sink("bar")]).log(4, {"train": {}})

    assert told == [("file", 4, {"train": {}}), ("bar", 4, {"train": {}})]


def test_a_sink_that_is_added_gets_later_records_after_the_others():
    told: list[tuple[str, int]] = []

    def sink(name: str) -> Any:
        return SimpleNamespace(log=lambda step, metrics: told.append((name, step)))

    sinks = MetricFanOut([sink("file")])
    sinks.log(1, {"train": {}})
    sinks.add(sink("bar"), sink("monitor"))
    sinks.log(2, {"train": {}})

    assert told == [("file", 1), ("file", 2), ("bar", 2), ("monitor", 2)]
