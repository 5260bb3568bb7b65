import json
from pathlib import Path

import pytest

from megadga.errors import ConfigError
from megadga.report.records import read_events, read_last, read_metrics


def test_records_of_one_type_come_in_order(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        '{"type": "train", "step": 1}\n'
        '{"type": "update", "step": 1}\n'
        '{"type": "train", "step": 2}\n'
    )
    assert read_metrics(metrics).of("train") == [
        {"type": "train", "step": 1},
        {"type": "train", "step": 2},
    ]


def test_a_line_that_is_being_written_is_excluded(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"type": "train", "step": 1}\n{"type": "tra')
    assert read_metrics(metrics).of("train") == [{"type": "train", "step": 1}]


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 1}', ""])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(f'{{"type": "train", "step": 1}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2: expected an object with type"):
        read_metrics(metrics).of("train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: expected a run's metrics"):
        read_metrics(tmp_path / "metrics.jsonl").of("train")


@pytest.fixture
def long(tmp_path) -> Path:
    path = tmp_path / "metrics.jsonl"
    event = {"type": "event", "step": 1, "event": "start"}
    records = [event, *({"type": "train", "step": step} for step in range(2, 9))]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records) + '{"type": "ev')
    return path


def test_the_last_records_are_the_complete_ones_of_the_last_bytes(long):
    whole = read_metrics(long).records
    assert read_last(long, 1 << 20) == whole
    size = len(json.dumps(whole[-1])) + 1
    torn = len('{"type": "ev')
    assert read_last(long, torn + 2 * size + 1) == whole[-2:]
    assert read_last(long, torn + 2 * size - 1) == whole[-1:]
    assert read_last(long, torn) == ()


def test_events_are_found_among_other_records(long):
    assert read_events(long) == read_metrics(long).records[:1]


@pytest.mark.parametrize("read", [read_events, lambda path: read_last(path, 9)])
def test_records_that_cannot_be_read_are_one_line(tmp_path, read):
    with pytest.raises(ConfigError, match=r"none: expected a run's metrics, found"):
        read(tmp_path / "none")
