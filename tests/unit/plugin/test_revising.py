"""A plugin goes on from the state of one over other domains."""

import numpy as np
import pytest
import torch

from megadga.data.order import WindowOrder
from megadga.errors import ResumeError
from megadga.mixers.base import MixtureState
from megadga.mixers.carrying import MixtureChange
from megadga.mixers.odm import Odm
from megadga.plugin import MixturePlugin, Sampling
from megadga.plugin.revising import revised_state
from tests.unit.plugin.test_mixture import B
from tests.unit.train.fakes import FakeEngine


def plugin(group, domains, order=None):
    engine = FakeEngine(accumulation=2, micro_batch_size=B // 2)
    engine.data_parallel_group = group
    rule = Odm(np.full(len(domains), 1 / len(domains)))
    sampling = Sampling(seed=1, order=order)
    return MixturePlugin(engine, domains, None, rule, sampling=sampling, interval=3)


def train(mixture, steps):
    """Train, and return the windows of each step by the domains' names."""
    drawn = []
    for _ in range(steps):
        indices = mixture.next_batch().indices
        domains = indices.global_domains
        mixture.observe_losses(domains, 1.0 + domains.astype(np.float64))
        mixture.after_step(indices.step)
        pairs = zip(indices.domains.ravel(), indices.sequences.ravel(), strict=True)
        drawn += [(mixture.names[domain], int(window)) for domain, window in pairs]
    return drawn


def test_windows_weights_and_losses_go_on_over_other_domains(group, domains):
    before = plugin(group, domains[:2])
    first = train(before, 5)
    state = before.state_dict()
    before.close()
    sources = np.array([-1, 1, 0])
    sizes = np.array([each.num_sequences for each in (domains[2], domains[1], domains[0])])
    revised = before.order.revised(before.cursors, sources, sizes)
    after = plugin(group, [domains[2], domains[1], domains[0]], revised.order)

    change = MixtureChange(sources, 2, np.array([0.2, 0.0, 0.0]), step=5)
    after.load_revised_state_dict(state, change, cursors=revised.cursors, same_measurement=True)

    assert after.step == 5
    np.testing.assert_allclose(after.weights, [0.2, *(0.8 * state["averaged_weights"][[1, 0]])])
    observer = after.state_dict()["observer"]
    counts = state["observer"]["loss_counts"]
    assert observer["loss_counts"].tolist() == [0, counts[1], counts[0]]
    second = train(after, 4)
    after.close()
    assert {name for name, _ in second} == {"d0", "d1", "d2"}
    assert len({*first, *second}) == len(first) + len(second)

    again = plugin(group, [domains[2], domains[1], domains[0]])
    with pytest.raises(ResumeError, match="checkpoint: order: expected None as in this run"):
        again.load_state_dict(after.state_dict())


def test_estimates_in_flight_are_those_of_the_same_domains():
    def state(dots, sequences):
        estimates = {
            "dots": torch.tensor(dots, dtype=torch.float64),
            "counts": torch.tensor(sequences),
        }
        return {"step": 5, "general_loss": 2.0, "observer": {"probe": {}, "estimates": estimates}}

    fresh = state([0.0, 0.0], [0, 0])
    change = MixtureChange(np.array([-1, 0]), 1, np.array([0.5, 0.0]), 5, same_validation=False)
    mixture = MixtureState(np.full(2, 0.5), np.full(2, 0.5), 1, 0)
    cursors = np.array([0, 7])
    for same, dots in ((True, [0.0, 3.0]), (False, [0.0, 0.0])):
        revised = revised_state(
            state([3.0], [4]), fresh, mixture, change, cursors=cursors, same_measurement=same
        )
        assert revised["observer"]["estimates"]["dots"].tolist() == dots
        assert revised["general_loss"] is None


def test_an_order_of_other_domains_is_refused(group, domains):
    with pytest.raises(ValueError, match="order: expected that of the domains' windows"):
        plugin(group, domains, WindowOrder.of(np.array([3, 3, 3])))
