from typing import Any

import pytest

from megadga.errors import ConfigError
from megadga.mixers.updates import UpdateSteps
from megadga.report.history import read_all_weights, read_weights
from megadga.report.records import read_metrics
from megadga.train.metrics import MetricsFile
from megadga.train.thinning import ThinnedRecords

LAST_STEP = 100


def logged(path, *, domains, interval, every=None, steps=LAST_STEP, resumed_at=0):
    """Log updates after every ``interval`` steps, and evaluations after every tenth step."""

    def anew():
        return ThinnedRecords(
            MetricsFile(path),
            every=every,
            updates=UpdateSteps(interval),
            evaluation_interval=10,
            last_step=LAST_STEP,
        )

    values = {f"d{index}": 1.0 / domains for index in range(domains)}
    sink = anew()
    for step in range(1, steps + 1):
        if step == resumed_at:
            sink = anew()
        metrics: dict[str, dict[str, Any]] = {"train": {"loss": 3.0}}
        if step % interval == 0:
            of_domains = {"alignments": values, "averaged_weights": values}
            metrics["update"] = {**of_domains, "probe_s": 1.0, "effective_domains": float(domains)}
        if step % 10 == 0:
            metrics["evaluation"] = {"specific": {"t": 2.0}, "domains": values, "general": 2.0}
        sink.log(step, metrics)
    return path


def test_with_few_domains_everything_is_logged(tmp_path):
    path = logged(tmp_path / "metrics.jsonl", domains=64, interval=4)

    assert len(read_metrics(path).of("update")) == 25
    assert all("domains" in each for each in read_metrics(path).of("evaluation"))
    assert read_all_weights(read_metrics(path)).weights.shape == (25, 64)


def test_with_many_domains_most_updates_are_logged_in_summary(tmp_path):
    path = logged(tmp_path / "metrics.jsonl", domains=320, interval=4)  # 20 steps between

    assert [each["step"] for each in read_metrics(path).of("update")] == [20, 40, 60, 80, 100]
    first, *others = read_metrics(path).of("update_summary")
    assert len(others) == 19
    assert first["step"] == 4
    assert first.keys() == {"type", "step", "probe_s", "effective_domains"}
    assert first["effective_domains"] == 320.0
    by_domain = [each["step"] for each in read_metrics(path).of("evaluation") if "domains" in each]
    assert by_domain == [20, 40, 60, 80, 100]
    assert read_weights(read_metrics(path)).weights.shape == (5, 320)


@pytest.mark.parametrize(("interval", "resumed_at"), [(3, 50), (7, 22), (40, 41)])
def test_a_resumed_run_logs_what_the_uninterrupted_one_does(tmp_path, interval, resumed_at):
    one, other = (
        logged(tmp_path / f"{at}.jsonl", domains=320, interval=interval, resumed_at=at)
        for at in (0, resumed_at)
    )

    assert one.read_bytes() == other.read_bytes()
    assert read_metrics(one).of("update")[-1]["step"] == LAST_STEP // interval * interval


def test_the_file_grows_with_the_steps_and_not_with_the_domains(tmp_path):
    few, many = (
        logged(tmp_path / f"{domains}.jsonl", domains=domains, interval=1).stat().st_size
        for domains in (320, 1600)
    )

    assert many < 1.2 * few


def test_without_a_log_by_domain_a_replayed_run_must_have_logged_every_update(tmp_path):
    path = logged(tmp_path / "thinned.jsonl", domains=320, interval=4)
    whole = logged(tmp_path / "whole.jsonl", domains=320, interval=4, every=1)

    with pytest.raises(ConfigError, match=r"found 20 updates without, .*no by_domain.log beside"):
        read_all_weights(read_metrics(path))
    assert read_all_weights(read_metrics(whole)).weights.shape == (25, 320)
