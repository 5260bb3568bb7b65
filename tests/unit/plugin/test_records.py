"""What is told of an update, by name."""

import numpy as np

from megadga.mixing.dga import Dga
from megadga.mixing.general_guard import GeneralGuard
from megadga.mixing.over_basis import OverBasis
from megadga.mixing.scheduler import Alignments
from megadga.mixing.static import uniform_weights
from megadga.plugin.records import MOST_DOMAINS, UpdateRecords
from tests.support.mixtures import mixtures_of

BASIS = ("qa", "code")
OF_DOMAINS = {"weights", "averaged_weights", "epochs"}


def record_over(num_domains: int):
    rows = np.zeros((2, num_domains))
    rows[0, 0], rows[1, 1] = 1.0, 1.0
    rule = OverBasis(Dga(uniform_weights(2), step_size=0.5), mixtures_of(rows, BASIS))
    alignments = Alignments(np.array([1.0, 2.0]), 4.0, standard_errors=np.array([0.1, 0.2]))
    domains = tuple(f"c{i}" for i in range(num_domains))
    records = UpdateRecords(domains, rule.observes)
    weights = records.weights(rule.init(), np.zeros(num_domains))
    return {**records.alignments(alignments), **weights}


def test_a_basis_is_told_beside_the_domains():
    record = record_over(3)

    assert record["alignments"] == {"qa": 1.0, "code": 2.0}
    assert record["standard_errors"] == {"qa": 0.1, "code": 0.2}
    assert record["basis_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["basis_averaged_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["averaged_weights"] == {"c0": 0.5, "c1": 0.5, "c2": 0.0}


def test_a_guard_is_told_in_every_update_and_where_it_begins_and_ends():
    rule = Dga(uniform_weights(2), step_size=0.5, general_guard=GeneralGuard(0.5, 0.5))
    over = OverBasis(rule, mixtures_of(np.eye(2), BASIS))
    records = UpdateRecords(BASIS, over.observes)
    state, told, events = over.init(), [], []
    for loss in (2.0, 3.0, 4.0, 2.25):
        observed = Alignments(np.array([1.0, 2.0]), 4.0, general_loss=loss)
        after = over.update(state, observed)
        told.append(records.weights(after, np.zeros(2))["general_guard"])
        events.append(records.guard(state, after, observed))
        state = after

    assert told == [False, True, True, False]
    losses = {"general_loss": 3.0, "best_general_loss": 2.0}
    assert events[1] == {"event": {"event": "general_guard_on", **losses}}
    losses = {"general_loss": 2.25, "best_general_loss": 2.0}
    assert events[3] == {"event": {"event": "general_guard_off", **losses}}
    assert events[0] == events[2] == {}


def test_too_many_domains_are_left_to_their_basis():
    assert record_over(MOST_DOMAINS).keys() >= OF_DOMAINS
    assert not record_over(MOST_DOMAINS + 1).keys() & OF_DOMAINS
