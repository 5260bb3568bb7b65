import importlib
import json
import struct
import sys

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.mixers.rule import WeightHistory
from megadga.report import plots as alignment_plots
from megadga.report import plots as weight_plots
from megadga.report.history import read_weights, read_weights_from_start
from megadga.report.plots import (
    DOTS_PER_INCH,
    SIZE_INCHES,
    heaviest_lines,
    plot_alignments,
    plot_run,
    plot_weights,
)
from megadga.report.records import read_metrics


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
    history = read_weights(read_metrics(metrics))
    assert history.names == ("a", "b")
    np.testing.assert_array_equal(history.steps, [10, 20])
    np.testing.assert_array_equal(history.weights, [[0.25, 0.75], [0.5, 0.5]])


def test_a_run_without_updates_has_no_weights_to_draw(tmp_path):
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
    assert plot_run(metrics, tmp_path) == (tmp_path / "weights.png",)
    assert png_size(tmp_path / "weights.png")[0] == SIZE_INCHES[0] * DOTS_PER_INCH


def test_a_run_that_has_not_trained_yet_is_drawn(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text("")
    write_start(metrics, {"a": 0.75, "b": 0.25})
    plot_weights(metrics, tmp_path / "w.png")
    assert png_size(tmp_path / "w.png")[0] == SIZE_INCHES[0] * DOTS_PER_INCH


def test_a_start_with_other_domains_is_refused(tmp_path):
    metrics = write_updates(tmp_path / "m.jsonl", {"a": 0.5, "b": 0.5})
    with pytest.raises(ConfigError, match="event start: expected the domains a, b, found a, c"):
        read_weights_from_start(read_metrics(write_start(metrics, {"a": 0.75, "c": 0.25})))


def drawn(monkeypatch, module, plot):
    """Return colour and dashes of each line that is drawn, by the name in its label."""
    styles, labels = [], {}

    def note(axes, names, values, colours):
        styles.extend((line.get_color(), line.get_linestyle()) for line in axes.get_lines())
        labels.update(zip([name.split("  ")[0] for name in names], styles, strict=True))

    with monkeypatch.context() as patched:
        patched.setattr(module, "label_ends", note)
        plot()
    return labels


def test_a_domain_has_one_colour_in_every_run_and_every_picture(tmp_path, monkeypatch):
    names = [f"d{number:02}" for number in range(20)]
    rising = np.arange(1.0, 21.0) / 210.0
    looks = []
    for run, weights in (("up", rising), ("down", rising[::-1])):
        record = {
            "averaged_weights": dict(zip(names, weights.tolist(), strict=True)),
            "alignments": dict.fromkeys(names, 1.0),
        }
        path = tmp_path / f"{run}.jsonl"
        path.write_text(f"{json.dumps({'type': 'update', 'step': 1, **record})}\n")
        image = tmp_path / "x.png"
        for module, plot in ((weight_plots, plot_weights), (alignment_plots, plot_alignments)):
            looks.append(drawn(monkeypatch, module, lambda: plot(path, image)))  # noqa: B023
    for name in names:
        assert len({look[name] for look in looks if name in look}) == 1
    for look in looks:
        assert len(set(look.values())) == len(look)


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
    monkeypatch.delitem(sys.modules, "megadga.report.plots")
    with pytest.raises(ConfigError, match=r"pip install 'megadga\[report\]'"):
        importlib.import_module("megadga.report.plots")
