import importlib
import json
import struct
import sys

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.history import WeightHistory, read_weights
from megadga.report.lines import DOTS_PER_INCH, SIZE_INCHES
from megadga.report.weights import heaviest_lines, plot_weights


def write_updates(path, *weights):
    records = [
        {"type": "update", "step": 10 * (number + 1), "averaged_weights": named}
        for number, named in enumerate(weights)
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def test_weights_come_with_steps_and_names(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5})
    history = read_weights(metrics)
    assert history.names == ("a", "b")
    np.testing.assert_array_equal(history.steps, [10, 20])
    np.testing.assert_array_equal(history.weights, [[0.25, 0.75], [0.5, 0.5]])


def test_a_run_without_updates_has_no_weights_to_draw(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text('{"type": "train", "step": 1}\n')
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected a record of type update"):
        read_weights(metrics)


def test_domains_must_stay_the_same(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.25, "b": 0.75}, {"a": 0.5, "c": 0.5})
    with pytest.raises(ConfigError, match="update of step 20: expected the domains a, b, found a"):
        read_weights(metrics)


def test_lines_are_ordered_by_their_last_weight():
    history = WeightHistory(("a", "b"), np.array([1, 2]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    lines = heaviest_lines(history, 2)
    assert lines.names == ("b", "a")
    np.testing.assert_array_equal(lines.weights, [[0.1, 0.9], [0.8, 0.2]])


def test_a_domain_that_was_heavy_once_keeps_its_line_and_the_rest_is_one():
    weights = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.3, 0.5, 0.2]])
    lines = heaviest_lines(WeightHistory(("a", "b", "c", "d"), np.array([1, 2]), weights), 3)
    assert lines.names == ("c", "a", "2 others together")
    np.testing.assert_allclose(lines.weights, [[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]])


@pytest.mark.parametrize("num_domains", [1, 9, 12, 40])
@pytest.mark.parametrize("num_updates", [1, 5])
def test_the_picture_is_a_png_of_the_size_asked_for(tmp_path, num_domains, num_updates):
    rng = np.random.default_rng((num_domains, num_updates))
    updates = [
        {f"domain_{index}": weight for index, weight in enumerate(weights)}
        for weights in rng.dirichlet(np.ones(num_domains), size=num_updates).tolist()
    ]
    metrics = write_updates(tmp_path / "m.jsonl", *updates)
    plot_weights(metrics, tmp_path / "w.png")
    assert png_size(tmp_path / "w.png") == tuple(
        round(side * DOTS_PER_INCH) for side in SIZE_INCHES
    )


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "megadga.report.lines")
    with pytest.raises(ConfigError, match=r"pip install 'megadga\[report\]'"):
        importlib.import_module("megadga.report.lines")
