"""What of a run's records goes into the log by domain, and that it can be cut and gone on with."""

import numpy as np
import pytest

from megadga.errors import ConfigError, ResumeError
from megadga.mixers.updates import UpdateSteps
from megadga.report.history import read_all_weights, read_weights
from megadga.report.records import read_metrics
from megadga.run_folder.domain_log import EVALUATION, WINDOWS, read_domain_log
from megadga.train.domain_log import DomainLogFile
from megadga.train.metrics import MetricFanOut, MetricsFile
from megadga.train.thinning import ThinnedRecords

START = {
    "event": {
        "event": "start",
        "averaged_weights": {"a": 0.5, "b": 0.5},
        "domain_windows": {"a": 30, "b": 7},
    }
}


def opened(path):
    log = DomainLogFile(path)
    log.cut(0)
    return log


def update(share, **more):
    weights = {"a": share, "b": 1.0 - share}
    return {"update": {"averaged_weights": weights, "weights": weights, **more}}


def test_a_start_has_weights_and_windows_and_an_evaluation_has_epochs(tmp_path):
    log = opened(tmp_path / "log")

    log.log(0, START)
    log.log(1, {"train": {"loss": 3.0, "loss_by_domain": {"a": 3.0}}})
    evaluation = {"specific": {"t": 2.0}, "domains": {"b": 2.5}, "general": 2.5}
    log.log(2, {"evaluation": {**evaluation, "epochs": {"a": 0.25, "b": 1.5}}})

    found = read_domain_log(tmp_path / "log")
    assert found.at("averaged_weights", 0).tolist() == [0.5, 0.5]
    assert found.at(WINDOWS, 0).tolist() == [30, 7]
    assert found.series(EVALUATION).names == ("b",)
    assert found.at(EVALUATION, 2).tolist() == [2.5]
    assert found.at("epochs", 2).tolist() == [0.25, 1.5]
    assert set(found.keys) == {"averaged_weights", WINDOWS, EVALUATION, "epochs"}


def test_alignments_of_several_sets_are_kept_apart(tmp_path):
    log = opened(tmp_path / "log")
    of_sets = {"qa": {"a": 1.0, "b": 2.0}, "law": {"a": 3.0, "b": 4.0}}

    log.log(4, update(0.1, target_alignments=of_sets, basis_weights={"x": 1.0}))

    found = read_domain_log(tmp_path / "log")
    assert found.at("target_alignments.qa", 4).tolist() == [1.0, 2.0]
    assert found.at("target_alignments.law", 4).tolist() == [3.0, 4.0]
    assert found.series("basis_weights").names == ("x",)


@pytest.mark.parametrize("torn", [b"", b"\x05\x00"])
def test_a_log_that_is_cut_goes_on_as_if_nothing_had_happened(tmp_path, torn):
    whole, parts = opened(tmp_path / "whole"), opened(tmp_path / "parts")
    for step in range(1, 5):
        whole.log(step, update(step / 7))
    for step in (1, 2):
        parts.log(step, update(step / 7))
    length = parts.sync()
    parts.log(3, update(0.9))
    with (tmp_path / "parts").open("ab") as file:
        file.write(torn)  # its writer was killed

    again = DomainLogFile(tmp_path / "parts")
    again.cut(length)
    for step in (3, 4):
        again.log(step, update(step / 7))

    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_log_that_is_shorter_than_at_the_checkpoint_is_refused(tmp_path):
    log = opened(tmp_path / "log")
    log.log(1, update(0.25))
    with pytest.raises(ResumeError, match=r"log: expected at least 9999 bytes"):
        log.cut(9999)


def test_names_that_could_not_be_written_are_written_with_the_next_values(tmp_path, monkeypatch):
    log = opened(tmp_path / "log")
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        log.log(1, update(0.25))
    (tmp_path / "log").rmdir()

    log.log(1, update(0.25))

    assert read_domain_log(tmp_path / "log").series("weights").values.tolist() == [[0.25, 0.75]]


def test_a_thinned_run_is_replayed_from_the_log_with_the_bits_of_every_update(tmp_path):
    """320 domains, an update a step, of which the metrics have every twentieth."""
    rng = np.random.default_rng(3)
    names = [f"d{index}" for index in range(320)]
    log = opened(tmp_path / "by_domain.log")
    thinned = ThinnedRecords(
        MetricsFile(tmp_path / "metrics.jsonl"),
        every=None,
        updates=UpdateSteps(1),
        evaluation_interval=10,
        last_step=40,
    )
    sinks = MetricFanOut((log, thinned))
    rows = rng.dirichlet(np.ones(320), size=41)
    named = [dict(zip(names, row.tolist(), strict=True)) for row in rows]
    sinks.log(0, {"event": {"event": "start", "averaged_weights": named[0], "domain_windows": {}}})
    for step in range(1, 41):
        sinks.log(step, {"update": {"averaged_weights": named[step], "epochs": named[step]}})

    history = read_all_weights(read_metrics(tmp_path / "metrics.jsonl"))

    assert history.names == tuple(names)
    assert history.steps.tolist() == [*range(1, 41)]
    np.testing.assert_array_equal(history.weights, rows[1:])
    assert len(read_weights(read_metrics(tmp_path / "metrics.jsonl")).steps) == 2


def test_a_log_that_begins_after_the_run_is_not_taken_for_all_of_it(tmp_path):
    """A run of an earlier version, resumed by this one."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log(2, {"update_summary": {"probe_s": 1.0}})
    metrics.log(4, update(0.25))
    opened(tmp_path / "by_domain.log").log(4, update(0.25))

    with pytest.raises(ConfigError, match=r"found 1 updates without, .*no by_domain.log beside"):
        read_all_weights(read_metrics(tmp_path / "metrics.jsonl"))
