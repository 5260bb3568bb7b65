"""When the plugin measures, and what it makes of it: with a measurement that is made up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from megadga.errors import ResumeError
from megadga.mixers.base import Alignments
from megadga.mixers.dga import Dga
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.static import uniform_weights
from megadga.mixers.updates import UpdateSteps
from megadga.plugin import MixturePlugin, Sampling
from megadga.plugin import mixture as module
from megadga.probes.sequences import TrainedBatch
from tests.unit.train.fakes import FakeEngine

LN2 = float(np.log(2.0))


@dataclass
class FakeMeasurement:
    """A ``Measurement`` of equal alignments each time, that records what it was asked."""

    dots: tuple[float, ...] = (LN2, 0.0, 0.0)
    prepared: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    measured: list[int] = field(default_factory=list[int])
    closed: int = 0
    state: dict[str, Any] = field(default_factory=lambda: {"direction": 7})

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        self.prepared.append((update, batch.domains.size))

    def measure(self, update: int) -> Alignments:
        self.measured.append(update)
        return Alignments(np.array(self.dots), specific_squared_norm=1.0)

    def close(self) -> None:
        self.closed += 1

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


@pytest.fixture
def measurement(monkeypatch: pytest.MonkeyPatch) -> FakeMeasurement:
    fake = FakeMeasurement()
    monkeypatch.setattr(module, "build_measurement", lambda *_, **__: fake)
    return fake


@pytest.fixture
def plugin(group: Any, domains: Any, measurement: FakeMeasurement) -> MixturePlugin:
    return new_plugin(group, domains)


def new_plugin(
    group: Any,
    domains: Any,
    *,
    ema: float = 1.0,
    seed: int = 1,
    interval: int | UpdateSteps = 3,
    guard: GeneralGuard | None = None,
) -> MixturePlugin:
    engine = FakeEngine(accumulation=2, micro_batch_size=4)
    engine.data_parallel_group = group
    rule = Dga(uniform_weights(len(domains)), step_size=1.0, ema=ema, general_guard=guard)
    sampling = Sampling(seed=seed)
    return MixturePlugin(engine, domains, domains[0], rule, sampling=sampling, interval=interval)


def train(plugin: MixturePlugin, steps: int) -> list[dict[str, Any]]:
    return [plugin.after_step(plugin.next_indices().step) for _ in range(steps)]


def test_every_interval_steps_the_domains_are_measured_and_the_weights_move(plugin, measurement):
    logged = train(plugin, 7)
    assert measurement.measured == [0, 1]
    assert measurement.prepared == [(0, 8), (1, 8)]  # before the steps 3 and 6
    assert [step for step, metrics in enumerate(logged, start=1) if metrics] == [3, 6]
    np.testing.assert_allclose(plugin.weights, np.array([4.0, 1.0, 1.0]) / 6.0, rtol=1e-15)


def test_updates_come_when_their_steps_say(group, domains, measurement):
    plugin = new_plugin(group, domains, interval=UpdateSteps(4, early_interval=1, early_steps=2))
    logged = train(plugin, 11)
    assert [step for step, metrics in enumerate(logged, start=1) if metrics] == [1, 2, 6, 10]


def test_the_rule_is_told_of_the_step_and_the_epochs(group, domains, measurement, monkeypatch):
    observed: list[Alignments] = []
    update = Dga.update

    def record(rule: Dga, state: Any, found: Any) -> Any:
        observed.append(found)
        return update(rule, state, found)

    monkeypatch.setattr(Dga, "update", record)
    plugin = new_plugin(group, domains)
    train(plugin, 3)
    (found,) = observed
    assert found.step == 3
    assert found.epochs is not None
    np.testing.assert_array_equal(found.epochs, plugin.epochs)


def test_the_weights_hold_for_the_batches_up_to_the_update_and_change_with_the_next(
    plugin, measurement
):
    measurement.dots = (500.0, 0.0, 0.0)
    before = [plugin.next_indices()]
    plugin.after_step(1)
    for step in (2, 3):
        before.append(plugin.next_indices())
        plugin.after_step(step)
    assert all(set(indices.global_domains.tolist()) == {0, 1, 2} for indices in before)
    assert set(plugin.next_indices().global_domains.tolist()) == {0}


def test_an_update_is_logged_with_weights_alignments_and_cost(plugin):
    update = train(plugin, 3)[-1]["update"]
    assert update["alignments"] == {"d0": LN2, "d1": 0.0, "d2": 0.0}
    assert update["averaged_weights"]["d0"] == pytest.approx(0.5)
    assert update["predicted_overhead"] == pytest.approx((3 * 8 + 32) / (3 * 8))
    assert update["probe_s"] >= 0.0


def test_alignments_that_are_not_finite_leave_the_weights_and_are_an_event(plugin, measurement):
    measurement.dots = (np.nan, 0.0, 0.0)
    assert set(train(plugin, 3)[-1]) == {"event"}
    np.testing.assert_array_equal(plugin.weights, uniform_weights(3))
    measurement.dots = (LN2, 0.0, 0.0)
    train(plugin, 3)
    assert measurement.measured == [0, 1]  # a skipped update has its number, too


def test_steps_and_batches_must_go_together(plugin):
    plugin.next_indices()
    with pytest.raises(ValueError, match="after_step: expected step 1, the batches handed out"):
        plugin.after_step(2)


def test_a_restored_plugin_continues_with_equal_batches_weights_and_direction(
    group,
    domains,
    measurement,
):
    first = new_plugin(group, domains, ema=0.5)
    train(first, 4)
    saved = first.state_dict()
    expected = [first.next_indices().sequences.tolist() for _ in range(2)]
    second = new_plugin(group, domains, ema=0.5)
    measurement.state = {}
    second.load_state_dict(saved)
    assert measurement.state == {"direction": 7}
    assert second.step == 4
    np.testing.assert_array_equal(second.weights, first.weights)
    assert [second.next_indices().sequences.tolist() for _ in range(2)] == expected
    train(second, 1)  # step 7 is none of an update
    assert measurement.measured == [0]


def test_a_guard_that_is_switched_on_at_a_resume_begins_anew(group, domains, measurement):
    first = new_plugin(group, domains)
    train(first, 4)
    second = new_plugin(group, domains, guard=GeneralGuard(max_rise=0.1, pull=0.5))

    second.load_state_dict(first.state_dict())
    second.observe_general(3.0)
    train(second, 2)

    assert 3.0 in [float(each[0]) for each in second.state_dict()["memory"].values()]


@pytest.mark.parametrize(
    ("other", "key"),
    [({"seed": 2}, "seed"), ({"domains": 2}, "domains")],
)
def test_a_state_of_another_run_is_refused(
    group,
    domains,
    measurement,
    other,
    key,
):
    saved = new_plugin(group, domains).state_dict()
    fewer = domains[: other.get("domains", 3)]
    with pytest.raises(ResumeError, match=f"checkpoint: {key}: expected"):
        new_plugin(group, fewer, seed=other.get("seed", 1)).load_state_dict(saved)


def test_closing_lets_go_of_the_model(plugin, measurement):
    plugin.close()
    assert measurement.closed == 1


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_is_at_least_one_step(group, domains, measurement, interval):
    engine = FakeEngine()
    engine.data_parallel_group = group
    rule = Dga(uniform_weights(3), step_size=1.0)
    with pytest.raises(ValueError, match="interval: expected at least 1 step"):
        MixturePlugin(
            engine, domains, domains[0], rule, sampling=Sampling(seed=1), interval=interval
        )


def test_a_rule_over_another_number_of_domains_is_refused(group, domains, measurement):
    engine = FakeEngine()
    engine.data_parallel_group = group
    rule = Dga(uniform_weights(2), step_size=1.0)
    with pytest.raises(ValueError, match="scheduler: expected weights over 3 domains"):
        MixturePlugin(engine, domains, domains[0], rule, sampling=Sampling(seed=1), interval=1)
