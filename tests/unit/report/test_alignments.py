import json

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.alignments import read_alignments
from megadga.report.plots import plot_alignments, plot_run
from megadga.report.records import read_metrics


def write_updates(path, *updates):
    records = [{"type": "update", "step": 5 * (i + 1), **u} for i, u in enumerate(updates)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def update(a, b, **more):
    return {"alignments": {"a": a, "b": b}, "averaged_weights": {"a": 0.25, "b": 0.75}, **more}


def only(metrics):
    """The history of a run with one specific set."""
    (history,) = read_alignments(read_metrics(metrics)).values()
    return history


def of_targets(**by_set):
    weights = dict.fromkeys(next(iter(by_set.values())), 0.5)
    return {"target_alignments": by_set, "averaged_weights": weights}


def test_alignments_come_with_steps_names_and_errors(tmp_path):
    errors = {"standard_errors": {"a": 0.1, "b": 0.2}}
    history = only(write_updates(tmp_path / "m", update(1, 2, **errors), update(3, 4)))

    assert history.names == ("a", "b")
    np.testing.assert_array_equal(history.steps, [5, 10])
    np.testing.assert_array_equal(history.alignments, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(history.standard_errors, [[0.1, 0.2], [np.nan, np.nan]])


def test_an_alignment_that_was_not_finite_leaves_a_gap(tmp_path):
    history = only(write_updates(tmp_path / "m", update(None, 2)))

    np.testing.assert_array_equal(history.alignments, [[np.nan, 2]])


def test_a_run_without_updates_has_no_alignments_to_draw(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text('{"type": "train", "step": 1}\n')
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected an update with alignments"):
        read_alignments(read_metrics(metrics))


@pytest.mark.parametrize("num_domains", [1, 30])
def test_the_plot_differs_with_the_errors(tmp_path, num_domains):
    names = [f"d{i}" for i in range(num_domains)]
    plain = {
        "alignments": {name: float(i) for i, name in enumerate(names)},
        "averaged_weights": dict.fromkeys(names, 1.0 / num_domains),
    }
    errors = {"standard_errors": dict.fromkeys(names, 0.5)}
    images = []
    for number, record in enumerate((plain, plain | errors)):
        image = tmp_path / f"{number}.png"
        plot_alignments(write_updates(tmp_path / f"{number}", record, record), image)
        images.append(image.read_bytes())

    assert images[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert images[0] != images[1]


def test_alignments_may_be_of_basis_distributions(tmp_path):
    over_basis = {
        "alignments": {"qa": 1, "code": 2},
        "averaged_weights": {"a": 0.25, "b": 0.75},
        "basis_averaged_weights": {"qa": 0.4, "code": 0.6},
    }
    history = only(write_updates(tmp_path / "m", over_basis))

    assert history.names == ("qa", "code")
    np.testing.assert_array_equal(history.weights, [0.4, 0.6])


def test_several_specific_sets_have_a_history_each(tmp_path):
    errors = {"target_standard_errors": {"qa": {"a": 0.1, "b": 0.2}, "law": {"a": 0.3, "b": 0.4}}}
    first = of_targets(qa={"a": 1, "b": 2}, law={"a": 3, "b": None})
    second = of_targets(qa={"a": 5, "b": 6}, law={"a": 7, "b": 8})
    histories = read_alignments(
        read_metrics(write_updates(tmp_path / "m", first | errors, second))
    )

    assert list(histories) == ["qa", "law"]
    np.testing.assert_array_equal(histories["qa"].alignments, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(histories["law"].alignments, [[3, np.nan], [7, 8]])
    np.testing.assert_array_equal(histories["law"].standard_errors, [[0.3, 0.4], [np.nan, np.nan]])


def test_several_specific_sets_have_a_panel_each(tmp_path):
    heights = []
    for number, targets in enumerate((["qa"], ["qa", "law"])):
        record = of_targets(**{name: {"a": 1.0, "b": 2.0} for name in targets})
        metrics = write_updates(tmp_path / f"{number}.jsonl", record, record)
        folder = tmp_path / f"{number}"
        folder.mkdir()
        _, image = plot_run(metrics, folder)
        heights.append(int.from_bytes(image.read_bytes()[20:24]))  # of PNG's header

    assert heights[1] == 2 * heights[0]


@pytest.mark.parametrize(
    "last", [{"a": None, "b": 1.0}, {"a": None, "b": None}, {"a": 1e300, "b": 0.0}]
)
def test_alignments_that_are_not_finite_or_huge_are_drawn_where_they_are(tmp_path, last):
    weights = {"a": 0.5, "b": 0.5}
    record = {"type": "update", "step": 0, "alignments": last, "averaged_weights": weights}
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps(record) + "\n")

    plot_alignments(metrics, tmp_path / "alignments.png")

    assert (tmp_path / "alignments.png").stat().st_size > 0
