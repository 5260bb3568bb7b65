"""What a plugin asks of the other ranks and of the disk, on a group of one rank."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from megadga.mixers.base import Scheduler
from megadga.mixers.odm import Odm
from megadga.mixers.probing import InFlight
from megadga.mixers.schedule import Schedule
from megadga.plugin import MixturePlugin, Sampling
from tests.unit.train.fakes import FakeEngine

S, B = 4, 8
COLLECTIVES = ("all_reduce", "broadcast", "all_gather_single", "reduce_scatter_single", "barrier")


@pytest.fixture
def made(monkeypatch) -> Counter[str]:
    """How often each collective was made."""
    counts: Counter[str] = Counter()
    for name in COLLECTIVES:
        original = getattr(dist, name)

        def counted(*args, name=name, original=original, **options):
            counts[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(dist, name, counted)
    return counts


def plugin(group: Any, domains: Any, scheduler: Scheduler, *, interval: int) -> MixturePlugin:
    engine = FakeEngine(accumulation=2, micro_batch_size=B // 2)
    engine.data_parallel_group = group
    return MixturePlugin(
        engine, domains, None, scheduler, sampling=Sampling(seed=1), interval=interval
    )


def train(mixture: MixturePlugin, steps: int) -> None:
    for _ in range(steps):
        batch = mixture.next_batch()
        domains = batch.indices.global_domains
        mixture.observe_losses(domains, 1.0 + domains.astype(np.float64))
        mixture.after_step(batch.step)


def test_a_step_without_update_has_no_collective(group, domains, made):
    mixture = plugin(group, domains, Odm(np.full(3, 1 / 3)), interval=100)
    made.clear()

    train(mixture, 5)

    assert not made
    mixture.close()


def test_an_update_from_losses_takes_one_broadcast_for_any_state(group, domains, made):
    mixture = plugin(group, domains, Odm(np.full(3, 1 / 3)), interval=1)
    assert len(mixture.state_dict()["memory"]) > 1
    made.clear()

    train(mixture, 5)

    assert made == {"broadcast": 5}
    mixture.close()


def test_schedule_weights_are_predicted_and_every_window_is_read_once(group, domains):
    weights = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    moving = Schedule(np.array([0, 12]), weights, "linear")
    mixture = plugin(group, domains, moving, interval=1)

    train(mixture, 8)
    mixture.close()

    for domain in domains:
        assert len(domain.read) == len(set(domain.read))


def test_domains_that_are_no_streams_are_not_measured_in_flight(group, domains):
    engine = FakeEngine(accumulation=2, micro_batch_size=B // 2)
    engine.data_parallel_group = group

    with pytest.raises(ValueError, match=r"expected domains that are streams.* found 'd0'"):
        MixturePlugin(
            engine,
            domains,
            None,
            Odm(np.full(3, 1 / 3)),
            sampling=Sampling(seed=1),
            probe=InFlight(),
        )
