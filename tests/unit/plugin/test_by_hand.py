"""A mixture that is set, frozen and released between steps; its batches planned again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megadga.data.order import WindowOrder
from megadga.data.sampler import SamplerState
from megadga.errors import ConfigError, ExhaustedError
from megadga.mixers.base import Scheduler
from megadga.mixers.odm import Odm
from megadga.mixers.schedule import Schedule
from megadga.mixers.static import Static, uniform_weights
from megadga.mixers.updates import UpdateSteps
from megadga.plugin import Metrics, MixturePlugin, Sampling
from megadga.plugin import sampling as sampling_module
from megadga.plugin.sampling import SamplerRecords
from megadga.report.sampling import BatchLayout, read_sampling
from megadga.train.metrics import MetricsFile
from megadga.train.replay import RecordedRun, exact_until
from tests.unit.plugin.test_updates import measurement, new_plugin, train
from tests.unit.train.fakes import FakeEngine

__all__ = ["measurement"]

NEW = {"d0": 0.6, "d2": 0.1}
RAMP = Schedule(np.array([0, 9]), np.array([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]]), "linear")


def plugin_of(group: Any, domains: Any, rule: Scheduler, **options: Any) -> MixturePlugin:
    engine = FakeEngine(accumulation=2, micro_batch_size=4)
    engine.data_parallel_group = group
    sampling = Sampling(seed=1, **options)
    return MixturePlugin(engine, domains, None, rule, sampling=sampling, interval=1)


def test_the_next_batch_is_drawn_from_the_weights_although_others_were_prefetched(group, domains):
    plugin = plugin_of(group, domains, Static(uniform_weights(3)), prefetch=3)
    plugin.after_step(plugin.next_batch().step)

    record = plugin.set_by_hand({"d1": 1.0})

    assert record["update"]["averaged_weights"] == {"d0": 0.0, "d1": 1.0, "d2": 0.0}
    batch = plugin.next_batch()
    assert set(batch.indices.global_domains.tolist()) == {1}
    plugin.close()


def test_a_mixture_goes_on_from_what_was_set(group, domains, measurement):
    plugin = new_plugin(group, domains, ema=0.5)
    train(plugin, 1)
    plugin.set_by_hand(NEW)
    train(plugin, 2)
    # alpha (0.6, 0.3, 0.1) is doubled in d0: (1.2, 0.3, 0.1) / 1.6; half of it is averaged.
    np.testing.assert_allclose(plugin.weights, [0.675, 0.24375, 0.08125], rtol=1e-12)


def test_a_frozen_mixture_is_not_measured_and_says_so(group, domains, measurement):
    plugin = new_plugin(group, domains)
    plugin.freeze()
    logged = train(plugin, 6)
    assert [metrics for metrics in logged if metrics] == [
        {"event": {"event": "update_skipped", "reason": "frozen by hand", "num_skipped": count}}
        for count in (1, 2)
    ]
    assert (measurement.prepared, measurement.measured) == ([], [])
    np.testing.assert_array_equal(plugin.weights, uniform_weights(3))

    other = new_plugin(group, domains)
    other.load_state_dict(plugin.state_dict())
    assert other.frozen
    other.release()
    train(other, 3)
    assert measurement.measured == [2]  # skipped ones have their numbers
    assert other.weights[0] == pytest.approx(0.5)


def test_losses_of_frozen_steps_are_dropped(group, domains):
    plugin = plugin_of(group, domains, Odm(uniform_weights(3)))
    plugin.freeze()
    indices = plugin.next_indices()
    plugin.observe_losses(indices.global_domains, np.ones(8))
    plugin.after_step(1)
    assert not plugin.state_dict()["observer"]["loss_counts"].any()


def test_a_schedule_is_set_only_while_it_is_frozen(group, domains):
    plugin = plugin_of(group, domains, RAMP)
    with pytest.raises(ConfigError, match="expected a mixture that is frozen, as the schedule"):
        plugin.set_by_hand(NEW)
    plugin.freeze()
    plugin.set_by_hand(NEW)
    assert train(plugin, 2) == [{}, {}]
    np.testing.assert_allclose(plugin.weights, [0.6, 0.3, 0.1])
    plugin.release()
    train(plugin, 1)
    np.testing.assert_array_equal(plugin.weights, RAMP.at(3))


def test_weights_that_no_batch_can_be_drawn_from_are_refused(group, domains):
    plugin = plugin_of(group, domains, Static(uniform_weights(3)), max_epochs=0.05)
    train(plugin, 1)  # of 5 windows of each
    before = plugin.state_dict()
    with pytest.raises(ExhaustedError, match=r"sequences for a batch, found [23] left"):
        plugin.set_by_hand({"d1": 1.0})
    np.testing.assert_array_equal(plugin.weights, before["averaged_weights"].numpy())


def log_run(
    plugin: MixturePlugin,
    folder: Path,
    steps: int,
    *,
    updates: UpdateSteps | None,
    max_epochs: float | None = 0.9,
) -> tuple[RecordedRun, list[Any]]:
    """Train, with changes by hand, and log; return the run, and what was trained."""
    layout = BatchLayout(1, 4, 8, 4, 1, "systematic", max_epochs, updates, "shards")
    records, metrics = SamplerRecords(plugin, layout), MetricsFile(folder / "metrics.jsonl")
    metrics.log(0, {"event": {"event": "start", **plugin.initial_weights()}})
    metrics.log(0, records.first(folder / "metrics.jsonl"))
    trained: list[Any] = []
    for _ in range(steps):
        indices = plugin.next_indices()
        trained.append(indices)
        plugin.observe_losses(
            indices.global_domains, indices.global_domains.astype(np.float64) + 1.0
        )
        drawn, counts = np.unique(indices.global_domains, return_counts=True)
        named = dict(zip([f"d{d}" for d in drawn], counts.tolist(), strict=True))
        logged: Metrics = {"train": {"sequences_by_domain": named}}
        metrics.log(
            indices.step,
            logged | plugin.after_step(indices.step) | records.after_step(indices.step),
        )
        if indices.step == 7:
            plugin.freeze()
            metrics.log(7, {"event": {"event": "mixture_frozen"}})
            metrics.log(7, plugin.set_by_hand(NEW))
        if indices.step == 12:
            plugin.release()
            metrics.log(12, {"event": {"event": "mixture_released"}})
    config: Any = SimpleNamespace(
        training=SimpleNamespace(steps=steps + 9), data=SimpleNamespace(domains="shards")
    )
    return RecordedRun(folder, config, plugin_domains(plugin), None, "shards", "shards"), trained


def plugin_domains(plugin: MixturePlugin) -> Any:
    sizes = plugin._batches.sizes.tolist()
    return [
        SimpleNamespace(name=name, num_sequences=size)
        for name, size in zip(plugin.names, sizes, strict=True)
    ]


@pytest.mark.parametrize("interval", [4, 1000])
@pytest.mark.parametrize(
    ("rule", "updates"),
    [
        (Static(np.array([0.2, 0.3, 0.5])), None),
        (RAMP, UpdateSteps(1)),
        (Odm(uniform_weights(3), warmup=2), UpdateSteps(1)),
    ],
    ids=["static", "schedule", "odm"],
)
def test_batches_of_any_rule_are_planned_again_bit_for_bit(
    group, domains, tmp_path, monkeypatch, rule, updates, interval
):
    monkeypatch.setattr(sampling_module, "record_interval", lambda *_: interval)
    plugin = plugin_of(group, domains, rule, max_epochs=0.9)
    run, trained = log_run(plugin, tmp_path, 20, updates=updates)
    for indices in trained:
        batch = run.batch(indices.step)
        assert batch.is_exact
        np.testing.assert_array_equal(batch.domains, indices.global_domains)
        np.testing.assert_array_equal(batch.windows[indices.rows], indices.sequences)
        np.testing.assert_array_equal(batch.micro_batches[indices.rows], [[0] * 4, [1] * 4])
        np.testing.assert_array_equal(batch.epochs, 0)
    # The step after the last: its weights are in the log.
    upcoming, following = run.batch(21), plugin.next_indices()
    assert upcoming.is_exact or isinstance(rule, Schedule)  # which logs no weights that stay
    assert upcoming.train is None
    np.testing.assert_array_equal(upcoming.domains, following.global_domains)
    assert run.batch(22).is_exact == (updates is None)
    for step in (0, 30):
        with pytest.raises(ConfigError, match=r"--step: expected a step from 1 to 29, found "):
            run.batch(step)


def test_batches_of_domains_that_were_revised_are_planned_again(group, domains, tmp_path):
    rule = Static(np.array([0.2, 0.3, 0.5]))
    sizes = plugin_of(group, domains, rule)._batches.sizes
    # One has grown after two of its windows, one has entered, and one was there under a number.
    before = WindowOrder.of(np.array([sizes[0] - 2, sizes[2], 7]))
    revised = before.revised(np.array([2, 3, 0]), np.array([0, -1, 1]), sizes)
    plugin = plugin_of(group, domains, rule, order=revised.order)
    plugin._batches.seek(SamplerState(0, revised.cursors))

    run, trained = log_run(plugin, tmp_path, 40, updates=None, max_epochs=None)

    for indices in trained:
        batch = run.batch(indices.step)
        np.testing.assert_array_equal(batch.domains, indices.global_domains)
        np.testing.assert_array_equal(batch.windows[indices.rows], indices.sequences)
    last = [run.batch(step) for step in (1, 40)]
    assert last[0].epochs.max() == 0
    assert last[1].epochs.max() > 0


def test_a_plan_that_contradicts_the_log_is_an_error(group, domains, tmp_path):
    plugin = plugin_of(group, domains, Static(np.array([0.2, 0.3, 0.5])), max_epochs=0.9)
    run, _ = log_run(plugin, tmp_path, 3, updates=None)
    metrics = tmp_path / "metrics.jsonl"
    text = metrics.read_text()
    before = '"step": 2, "sequences_by_domain": {'
    assert before in text
    metrics.write_text(text.replace(before, f'{before}"other": 1, '))
    with pytest.raises(ConfigError, match=r"sequences_by_domain: expected \{'d0'.*found \{'oth"):
        run.batch(2)


@pytest.mark.parametrize(("steps", "until"), [(5, 6), (6, 9), (7, None), (12, 15), (13, 15)])
def test_future_weights_are_known_up_to_the_next_update(
    group, domains, tmp_path, measurement, steps, until
):
    plugin = new_plugin(group, domains)
    log_run(plugin, tmp_path, steps, updates=UpdateSteps(3))
    assert exact_until(read_sampling(tmp_path / "metrics.jsonl", None)) == until


def test_an_update_whose_record_is_not_there_yet_is_not_known(
    group, domains, tmp_path, measurement
):
    plugin = new_plugin(group, domains)
    log_run(plugin, tmp_path, 6, updates=UpdateSteps(3))
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert exact_until(read_sampling(path, None)) == 6
