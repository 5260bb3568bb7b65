"""A sampler's state in metrics of any length, read around a step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.mixers.updates import UpdateSteps
from megadga.report import sampling as module
from megadga.report.sampling import (
    BatchLayout,
    SamplerRecord,
    last_domain_weights,
    read_sampling,
    record_interval,
    sampler_values,
    weighted_names,
)

LAYOUT = BatchLayout(2, 2, 8, 8, 17, "systematic", None, UpdateSteps(3), "0" * 16)


def sampler(step: int, *, frozen: bool = False) -> SamplerRecord:
    rng = np.random.default_rng(step)
    return SamplerRecord(
        step, rng.integers(0, 2**40, size=3), rng.dirichlet(np.ones(3)), frozen, LAYOUT
    )


def weights_after(step: int) -> dict[str, float]:
    values = np.random.default_rng((1, step)).dirichlet(np.ones(3)).tolist()
    return dict(zip("abc", values, strict=True))


def line(kind: str, step: int, **values: Any) -> str:
    return json.dumps({"type": kind, "step": step, **values}) + "\n"


def write(path: Path, steps: int, *events: str) -> Path:
    """Metrics with an update every 3 steps and a state every 10."""
    lines = [line("event", 0, event="start", averaged_weights=weights_after(0))]
    lines.append(line("sampler", 0, **sampler_values(sampler(0))))
    for step in range(1, steps + 1):
        lines.append(line("train", step, loss=1.0 / step, pad="x" * (step % 50)))
        if step % 3 == 0:
            lines.append(line("update", step, averaged_weights=weights_after(step)))
        if step % 10 == 0:
            lines.append(line("sampler", step, **sampler_values(sampler(step))))
        lines += [event for event in events if f'"step": {step},' in event]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_what_determines_a_batch_is_found_at_every_step_bit_for_bit(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    metrics = write(tmp_path / "metrics.jsonl", 33)
    for step in range(1, 34):
        log = read_sampling(metrics, step)
        expected = sampler((step - 1) // 10 * 10)
        assert log.sampler.step == expected.step
        assert log.sampler.layout == LAYOUT
        np.testing.assert_array_equal(log.sampler.cursors, expected.cursors)
        np.testing.assert_array_equal(log.sampler.weights, expected.weights)
        # An update of the state's own step is in the state already.
        updated = [s for s in range(expected.step + 1, step) if s % 3 == 0]
        assert [at for at, _ in log.updates] == updated
        for at, weights in log.updates:
            assert weights.tolist() == list(weights_after(at).values())
        assert log.train is not None
        assert log.train["step"] == step
        assert log.last_step == 33
    assert weighted_names(metrics, read_sampling(metrics, None)) == ("a", "b", "c")


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    metrics = write(tmp_path / "metrics.jsonl", 12)
    metrics.write_text(metrics.read_text() + line("train", 13, loss=1.0)[:30])
    log = read_sampling(metrics, None)
    assert (log.last_step, log.train, log.last_updated) == (12, None, True)
    assert log.weights.tolist() == list(weights_after(12).values())


def test_an_update_that_may_be_about_to_be_written_is_told_from_one_that_is(tmp_path):
    metrics = write(tmp_path / "metrics.jsonl", 11)
    assert not read_sampling(metrics, None).last_updated
    assert read_sampling(metrics, 5).last_step == 11


def test_a_mixture_is_frozen_from_its_event_on(tmp_path):
    frozen, released = (
        line("event", step, event=f"mixture_{what}")
        for step, what in ((13, "frozen"), (17, "released"))
    )
    metrics = write(tmp_path / "metrics.jsonl", 19, frozen, released)
    found = {step: read_sampling(metrics, step).frozen for step in (13, 14, 17, 18)}
    assert found == {13: False, 14: True, 17: True, 18: False}


def test_a_state_is_recorded_less_often_than_domains_are_many():
    assert record_interval(num_domains=100, global_batch_size=512) == 1000
    assert record_interval(num_domains=262_144, global_batch_size=512) == 2048


def test_a_record_of_many_domains_takes_few_bytes_of_each():
    rng = np.random.default_rng(0)
    cursors = rng.poisson(40, size=10_000)
    basis = sampler(1).weights
    text = json.dumps(sampler_values(SamplerRecord(1, cursors, basis, False, LAYOUT)))
    assert len(text) < 2 * cursors.size


def test_a_step_is_found_without_reading_the_steps_before(tmp_path, monkeypatch):
    metrics = write(tmp_path / "metrics.jsonl", 3000)
    monkeypatch.setattr(module, "_BLOCK", 4096)
    read: list[int] = []
    pread = module.os.pread

    def counted(descriptor: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(descriptor, count, offset)

    monkeypatch.setattr(module.os, "pread", counted)
    read_sampling(metrics, 2995)
    assert sum(read) < metrics.stat().st_size / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a run's metrics, found No such file"),
        ("", "expected a record of type sampler before step 1, found none: the run was started"),
        ("nonsense\n", "expected a record with type and step, found b'nonsense"),
        (line("sampler", 0, cursors="AA=="), "sampler of step 0: expected a sampler's state"),
    ],
)
def test_what_is_no_metrics_of_a_run_is_refused_in_a_line(tmp_path, content, message):
    metrics = tmp_path / "metrics.jsonl"
    if content is not None:
        metrics.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_sampling(metrics, 1)


def test_the_weights_of_the_domains_of_a_basis_are_those_that_were_logged_last(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    start = line("event", 0, event="start", averaged_weights={"c0": 1.0})
    later = line("update", 3, basis_averaged_weights={"qa": 1.0}, averaged_weights={"c0": 0.5})
    summary = line("update", 6, basis_averaged_weights={"qa": 1.0})
    metrics.write_text(start + later + summary)
    assert last_domain_weights(metrics) == (3, {"c0": 0.5})
    metrics.write_text(start + summary)
    assert last_domain_weights(metrics) == (0, {"c0": 1.0})
    metrics.write_text(summary)
    assert last_domain_weights(metrics) is None
