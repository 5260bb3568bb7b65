import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.mixers.base import Alignments, MixtureState, Scheduler
from megadga.mixers.basis import OverBasis, rule_state
from megadga.mixers.dga import Dga
from megadga.mixers.general_guard import GeneralGuard, GuardReading, read_guard
from tests.support.mixtures import identity

GUARD = GeneralGuard(max_rise=0.5, pull=0.5)
TOWARDS_FIRST = np.array([math.log(2.0), 0.0])


def states(rule: Scheduler, *losses: float | None, dots=TOWARDS_FIRST) -> list[MixtureState]:
    """The states after updates of which each saw one of the losses."""
    found = [rule.init()]
    for loss in losses:
        found.append(rule.update(found[-1], Alignments(dots, 1.0, general_loss=loss)))
    return found[1:]


def readings(rule: Scheduler, *losses: float | None) -> list[GuardReading | None]:
    inside = rule_state if isinstance(rule, OverBasis) else lambda state: state
    return [read_guard(inside(state).memory) for state in states(rule, *losses)]


def test_updates_are_pulled_while_the_loss_is_above_its_best_as_worked_out_by_hand():
    # alpha = prior = (1/2, 1/2), exp(eta a) = (2, 1), max_rise 1/2, pull 1/2.
    rule = Dga(np.array([0.5, 0.5]), step_size=1.0, general_guard=GUARD)
    found = states(rule, None, 3.0, 2.0, 2.5, 2.6, 2.5)

    # No evaluation, the first one, a better one, and one that is just 1/2 above the best 2.0:
    # odds double, 2, 4, 8, 16. At 2.6 they are pulled first, to sqrt(16) = 4, and doubled: 8. At
    # 2.5 the guard ends: 16.
    odds = [state.weights[0] / state.weights[1] for state in found]
    np.testing.assert_allclose(odds, [2, 4, 8, 16, 8, 16], rtol=1e-13)
    read = [read_guard(state.memory) for state in found]
    assert [each.is_on for each in read if each] == [False, False, False, False, True, False]
    assert [each.best for each in read if each] == [math.inf, 3.0, 2.0, 2.0, 2.0, 2.0]


def test_it_pulls_to_the_general_mixture_where_there_is_one():
    # As above, from odds of 9: 18 and 36. At 2.6 they are pulled half of the way to odds of 1, to
    # 6, and doubled.
    start, general = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    rule = Dga(start, step_size=1.0, general_guard=GUARD, general=general)
    odds = [state.weights[0] / state.weights[1] for state in states(rule, 3.0, 2.0, 2.6, 2.0)]
    np.testing.assert_allclose(odds, [18, 36, 12, 24], rtol=1e-13)


def test_filtered_weights_are_pulled_to_the_general_mixture_after_their_step():
    start, general = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    free = Dga(start, step_size=1.0, filtered=True)
    guarded = replace(free, general_guard=GUARD, general=general)
    for plain, pulled in zip(states(free, 2.0, 2.6), states(guarded, 2.0, 2.6), strict=True):
        reading = read_guard(pulled.memory)
        assert reading is not None
        share = 0.5 if reading.is_on else 0.0
        odds = plain.weights[0] / plain.weights[1]
        np.testing.assert_allclose(pulled.weights[0] / pulled.weights[1], odds ** (1.0 - share))


@pytest.mark.parametrize("general", [np.array([1.0, 0.0]), np.full(3, 1 / 3)])
def test_a_general_mixture_has_weight_in_every_domain(general):
    with pytest.raises(ValueError, match="general: expected"):
        Dga(np.array([0.5, 0.5]), step_size=1.0, general_guard=GUARD, general=general)


def test_the_guard_never_weakens_the_pull_that_there_is_anyway():
    rule = Dga(np.array([0.5, 0.5]), step_size=1.0, prior_pull=0.75)
    guarded = replace(rule, general_guard=GUARD)
    for plain, same in zip(states(rule, 1.0, 9.0), states(guarded, 1.0, 9.0), strict=True):
        np.testing.assert_array_equal(same.weights, plain.weights)


@given(losses=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=6))
def test_a_guard_that_does_not_come_on_changes_no_bit(losses):
    rule = Dga(np.array([0.3, 0.7]), step_size=0.5, ema=0.5, floor=0.1)
    guarded = replace(rule, general_guard=GeneralGuard(max_rise=20.0, pull=1.0))
    for plain, same in zip(states(rule, *losses), states(guarded, *losses), strict=True):
        np.testing.assert_array_equal(same.averaged_weights, plain.averaged_weights)


@given(losses=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=6))
def test_over_the_identity_a_guarded_rule_keeps_its_bits_and_its_memory(losses):
    rule = Dga(np.array([0.3, 0.7]), step_size=0.5, general_guard=GUARD)
    over = OverBasis(rule, identity(2))
    for plain, mixed in zip(states(rule, *losses), states(over, *losses), strict=True):
        np.testing.assert_array_equal(mixed.weights, plain.weights)
    assert readings(over, *losses) == readings(rule, *losses)


def test_a_loss_that_is_no_number_is_a_rise_and_never_the_best():
    rule = Dga(np.array([0.5, 0.5]), step_size=1.0, general_guard=GUARD)
    assert readings(rule, 2.0, math.nan, math.inf, 2.0) == [
        GuardReading(is_on=on, best=2.0) for on in (False, True, True, False)
    ]


def test_an_update_that_is_left_out_takes_in_the_best_loss_and_begins_nothing():
    rule = Dga(np.array([0.5, 0.5]), step_size=1.0, warmup=2, general_guard=GUARD)
    assert readings(rule, 2.0, 9.0, 9.0) == [
        GuardReading(is_on=on, best=2.0) for on in (False, False, True)
    ]


def test_a_rule_without_a_guard_remembers_none():
    assert readings(Dga(np.array([0.5, 0.5]), step_size=1.0), 2.0) == [None]


@pytest.mark.parametrize(
    ("max_rise", "pull", "message"),
    [
        (0.0, 0.5, r"max_rise\n.*greater than 0"),
        (math.inf, 0.5, r"max_rise\n.*finite number"),
        (0.1, 0.0, r"pull\n.*greater than 0"),
        (0.1, 1.5, r"pull\n.*less than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(max_rise, pull, message):
    with pytest.raises(ValueError, match=message):
        GeneralGuard(max_rise=max_rise, pull=pull)
