import json

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.report.alignments import read_alignments
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


def test_a_run_without_updates_has_no_alignments(tmp_path):
    metrics = tmp_path / "m.jsonl"
    metrics.write_text('{"type": "train", "step": 1}\n')
    with pytest.raises(ConfigError, match=r"m\.jsonl: expected an update with alignments"):
        read_alignments(read_metrics(metrics))


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
