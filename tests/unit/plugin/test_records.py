"""What is told of an update, by name."""

from dataclasses import replace

import numpy as np
import pytest

from megadga.mixers.base import Alignments, TargetAlignments
from megadga.mixers.basis import OverBasis
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.static import uniform_weights
from megadga.mixers.targets import OverTargets
from megadga.plugin.protocol import MAX_DOMAINS, bounded, flatten
from megadga.plugin.records import RepeatAlarm, UpdateRecords
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
    return {**records.measurement(alignments, rule.init()), **weights}


def test_a_basis_is_reported_beside_the_domains():
    record = record_over(3)

    assert record["alignments"] == {"qa": 1.0, "code": 2.0}
    assert record["standard_errors"] == {"qa": 0.1, "code": 0.2}
    assert record["basis_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["basis_averaged_weights"] == {"qa": 0.5, "code": 0.5}
    assert record["averaged_weights"] == {"c0": 0.5, "c1": 0.5, "c2": 0.0}


def test_a_guard_is_reported_in_every_update_and_where_it_begins_and_ends():
    rule = Dga(
        uniform_weights(2), step_size=0.5, general_guard=GeneralGuard(max_rise=0.5, pull=0.5)
    )
    over = OverBasis(rule, mixtures_of(np.eye(2), BASIS))
    records = UpdateRecords(BASIS, over.observes)
    state, told, events = over.init(), [], []
    for loss in (2.0, 3.0, 4.0, 2.25):
        observed = Alignments(np.array([1.0, 2.0]), 4.0, general_loss=loss)
        after = over.update(state, observed)
        told.append(records.weights(after, np.zeros(2))["general_guard"])
        events.append(records.guard(state, after, loss))
        state = after

    assert told == [False, True, True, False]
    losses = {"general_loss": 3.0, "best_general_loss": 2.0}
    assert events[1] == {"event": {"event": "general_guard_on", **losses}}
    losses = {"general_loss": 2.25, "best_general_loss": 2.0}
    assert events[3] == {"event": {"event": "general_guard_off", **losses}}
    assert events[0] == events[2] == {}


def test_a_mean_of_the_weights_is_reported_where_a_rule_keeps_one():
    doge, dga = (rule(uniform_weights(2), step_size=0.5) for rule in (Doge, Dga))
    moved = replace(doge.init(), weights=np.array([1.0, 0.0]))

    told = UpdateRecords(("a", "b"), doge.observes).weights(moved, np.zeros(2))

    assert told["mean_weights"] == {"a": 0.5, "b": 0.5}
    assert told["weights"] == {"a": 1.0, "b": 0.0}
    plain = UpdateRecords(("a", "b"), dga.observes).weights(dga.init(), np.zeros(2))
    assert "mean_weights" not in plain


@pytest.mark.parametrize(("target", "name"), [("domains", "mean"), ("specific", "specific")])
def test_the_norm_of_what_domains_are_compared_with_is_reported_under_its_name(target, name):
    rule = Doge(uniform_weights(2), step_size=0.5, target=target)
    record = UpdateRecords(("a", "b"), rule.observes).measurement(
        Alignments(np.array([1.0, 2.0]), 4.0, np.array([9.0, 16.0])), rule.init()
    )

    assert record[f"{name}_gradient_norm"] == 2.0
    assert record["gradient_norms"] == {"a": 3.0, "b": 4.0}


def test_too_many_domains_are_logged_by_basis_only():
    few, many = (record_over(num) for num in (MAX_DOMAINS, MAX_DOMAINS + 1))

    assert bounded(few) == few
    assert many.keys() - bounded(many).keys() == OF_DOMAINS
    flat = flatten({"update": many}, prefix="mixture")
    assert "mixture/basis_weights/qa" in flat
    assert not [key for key in flat if key.endswith("/c0")]


def test_the_entropy_of_the_averaged_weights_is_reported_with_what_it_means():
    record = record_over(3)  # two of the domains have the weight 1/2

    assert record["entropy"] == pytest.approx(np.log(2.0))
    assert record["effective_domains"] == pytest.approx(2.0)


def test_domains_that_repeat_are_named_up_to_eight():
    ended = [(), ("a",), tuple(f"d{index}" for index in range(9))]
    alarm = RepeatAlarm(lambda: ended[0])

    told = []
    while ended:
        told.append(alarm.after_step(3 - len(ended)))
        ended.pop(0)

    assert told[0] == {}
    assert told[1]["event"] == {"event": "domain_repeats", "domains": ["a"], "num_domains": 1}
    assert told[2]["event"]["domains"] == [f"d{index}" for index in range(8)]
    assert told[2]["event"]["num_domains"] == 9


def of_two_sets(dots, **more):
    return TargetAlignments(np.array(dots), np.array([1.5, 2.5]), np.array([4.0, 9.0]), **more)


def test_several_specific_sets_are_reported_by_name():
    rule = OverTargets(Dga(uniform_weights(2), step_size=0.5), np.array([1.0, 3.0]))
    observed = of_two_sets(
        [[1.0, 2.0], [3.0, 4.0]],
        standard_errors=np.array([[0.1, 0.2], [0.3, 0.4]]),
        squared_norms=np.array([1.0, 25.0]),
        direction_energies=np.array([1.0, 0.5]),
    )
    record = UpdateRecords(("a", "b"), rule.observes, ("qa", "law")).measurement(
        observed, rule.init()
    )

    assert record == {
        "target_alignments": {"qa": {"a": 1.0, "b": 2.0}, "law": {"a": 3.0, "b": 4.0}},
        "target_standard_errors": {"qa": {"a": 0.1, "b": 0.2}, "law": {"a": 0.3, "b": 0.4}},
        "target_losses": {"qa": 1.5, "law": 2.5},
        "target_weights": {"qa": 0.25, "law": 0.75},
        "target_gradient_norms": {"qa": 2.0, "law": 3.0},
        "target_direction_energies": {"qa": 1.0, "law": 0.5},
        "gradient_norms": {"a": 1.0, "b": 5.0},
    }


def test_of_several_specific_sets_over_a_basis_the_weights_are_reported_too():
    inner = OverTargets(Dga(uniform_weights(2), step_size=0.5), np.array([1.0, 3.0]))
    rule = OverBasis(inner, mixtures_of([[1, 0, 0], [0, 0.5, 0.5]], BASIS))
    record = UpdateRecords(("c0", "c1", "c2"), rule.observes, ("x", "y")).measurement(
        of_two_sets([[1.0, 2.0], [3.0, 4.0]]), rule.init()
    )

    assert record["target_alignments"]["y"] == {"qa": 3.0, "code": 4.0}
    assert record["target_weights"] == {"x": 0.25, "y": 0.75}


def test_a_skipped_update_over_several_sets_names_the_domains():
    rule = OverTargets(Dga(uniform_weights(2), step_size=0.5), np.ones(2))
    observed = of_two_sets([[1.0, 2.0], [3.0, np.nan]])
    after = rule.update(rule.init(), observed)
    event = UpdateRecords(("a", "b"), rule.observes, ("x", "y")).skipped(observed, after)

    assert event["reason"] == "alignments or losses of the specific sets are not finite"
    assert (event["domains"], event["num_skipped"]) == (["b"], 1)
