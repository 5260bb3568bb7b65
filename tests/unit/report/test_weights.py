import json

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.history import read_weights, read_weights_from_start
from megadga.report.records import read_metrics


def write_updates(path, *weights):
    records = [
        {"type": "update", "step": 10 * (number + 1), "averaged_weights": named}
        for number, named in enumerate(weights)
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_weights_come_with_steps_and_names(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5})
    history = read_weights(read_metrics(metrics))
    assert history.names == ("a", "b")
    np.testing.assert_array_equal(history.steps, [10, 20])
    np.testing.assert_array_equal(history.weights, [[0.25, 0.75], [0.5, 0.5]])


def test_a_run_without_updates_has_no_weights(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text('{"type": "train", "step": 1}\n')
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected a record of type update"):
        read_weights(read_metrics(metrics))


def test_domains_must_stay_the_same(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.25, "b": 0.75}, {"a": 0.5, "c": 0.5})
    with pytest.raises(ConfigError, match="update of step 20: expected the domains a, b, found a"):
        read_weights(read_metrics(metrics))


def test_domains_of_a_revised_run_have_no_weight_while_they_are_not_there(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.25, "b": 0.75}, {"a": 0.5, "c": 0.5})
    event = {"type": "event", "step": 10, "event": "revision"}
    write_start(metrics, {"a": 0.5, "b": 0.5}, event)
    history = read_weights_from_start(read_metrics(metrics))
    assert history.names == ("a", "b", "c")
    expected = [[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [0.5, 0.0, 0.5]]
    np.testing.assert_array_equal(history.weights, expected)


def write_start(path, weights, *records):
    start = {"type": "event", "step": 0, "event": "start", "averaged_weights": weights}
    lines = [start, *records]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + path.read_text())
    return path


def test_the_weights_of_step_0_come_first(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.5, "b": 0.5})
    history = read_weights_from_start(read_metrics(write_start(metrics, {"a": 0.75, "b": 0.25})))
    np.testing.assert_array_equal(history.steps, [0, 10])
    np.testing.assert_array_equal(history.weights, [[0.75, 0.25], [0.5, 0.5]])
    assert read_weights(read_metrics(metrics)).steps.tolist() == [10]


def test_weights_that_stay_are_a_line_to_the_last_step(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text("")
    trained = [{"type": "train", "step": step, "loss": 1.0} for step in (1, 2, 3)]
    write_start(metrics, {"a": 0.75, "b": 0.25}, *trained)
    history = read_weights_from_start(read_metrics(metrics))
    np.testing.assert_array_equal(history.steps, [0, 3])
    np.testing.assert_array_equal(history.weights, [[0.75, 0.25]] * 2)


def test_a_start_with_other_domains_is_refused(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.5, "b": 0.5})
    with pytest.raises(ConfigError, match="event start: expected the domains a, b, found a, c"):
        read_weights_from_start(read_metrics(write_start(metrics, {"a": 0.75, "c": 0.25})))
