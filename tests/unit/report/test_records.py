import pytest

from megadga.errors import ConfigError
from megadga.report.records import read_metrics


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
