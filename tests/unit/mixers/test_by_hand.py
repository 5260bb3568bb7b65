"""Weights that are set by hand: which they become, and how each rule goes on from them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.errors import ConfigError
from megadga.mixers.base import Alignments, DomainLosses
from megadga.mixers.basis import OverBasis, basis_weights
from megadga.mixers.by_hand import continue_from, set_weights
from megadga.mixers.dga import Dga
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.odm import Odm
from tests.support.mixtures import mixtures_of
from tests.unit.mixers.test_every_scheduler import RULES, every_rule, runs, states

NAMES = ("code", "web", "books", "news")
CURRENT = np.array([0.4, 0.3, 0.2, 0.1])
GUARD = GeneralGuard(max_rise=0.5, pull=0.6)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"code": 0.1}, [0.1, 0.45, 0.3, 0.15]),
        ({"web": 0.2, "news": 0.2}, [0.4, 0.2, 0.2, 0.2]),
        ({"code": 1.0}, [1.0, 0.0, 0.0, 0.0]),
        ({"code": 0.0}, [0.0, 0.5, 1 / 3, 1 / 6]),
        ({"code": 0.7, "web": 0.3}, [0.7, 0.3, 0.0, 0.0]),
        ({"code": 0.25, "web": 0.25, "books": 0.25, "news": 0.25}, [0.25] * 4),
    ],
)
def test_named_domains_get_their_weights_and_the_others_share_the_rest(wanted, expected):
    weights = set_weights(NAMES, CURRENT, wanted)
    np.testing.assert_allclose(weights, expected, rtol=1e-15)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("current", "wanted", "message"),
    [
        (CURRENT, {"bocks": 0.1}, "bocks: expected one of the 4 names.*did you mean 'books'?"),
        (CURRENT, {"code": -0.1}, r"code: expected a weight in \[0, 1\], found -0.1"),
        (CURRENT, {"code": float("nan")}, r"code: expected a weight in \[0, 1\], found nan"),
        (CURRENT, {"code": 0.6, "web": 0.5}, "a sum of at most 1, found 1.1"),
        (CURRENT, dict.fromkeys(NAMES, 0.2), "a sum of 1, as there is no other, found 0.8"),
        ([1.0, 0.0, 0.0, 0.0], {"code": 0.5}, "a sum of 1, as the others have weight 0"),
    ],
)
def test_what_is_no_mixture_is_refused(current, wanted, message):
    with pytest.raises(ConfigError, match=message):
        set_weights(NAMES, np.array(current), wanted)


@every_rule
@given(run=runs(), data=st.data())
def test_every_rule_takes_the_weights_and_keeps_what_it_has_observed(rule, run, data):
    initial, blocks = run
    masses = arrays(np.float64, initial.size, elements=st.floats(1e-3, 1.0))
    drawn = data.draw(masses)
    weights = drawn / drawn.sum()
    scheduler, state = rule.starting_at(initial), states(rule, initial, blocks)[-1]
    after = continue_from(scheduler, state, weights)
    np.testing.assert_array_equal(after.weights, weights)
    np.testing.assert_array_equal(after.averaged_weights, weights)
    assert (after.num_updates, after.num_skipped) == (state.num_updates, state.num_skipped)
    assert state.memory.keys() <= after.memory.keys()
    later = scheduler.update(after, rule.observing(blocks[0], len(blocks) + 1))
    assert later.averaged_weights.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["dga", "doge", "doremi", "sum of targets", "grape"])
def test_mirror_descent_goes_on_from_the_weights(name):
    """Where the observed domains do not differ, they stay; without, they return to others."""
    rule = RULES[name]
    scheduler = rule.starting_at(np.full(4, 0.25))
    state = scheduler.update(scheduler.init(), rule.observing(np.eye(4)[:2] + 1.0, 1))
    same = rule.observing(np.ones((2, 4)), 2)
    after = scheduler.update(continue_from(scheduler, state, CURRENT), same)
    np.testing.assert_allclose(after.weights, CURRENT, atol=1e-3)  # DoReMi smooths by 1e-3


@pytest.mark.parametrize(
    ("options", "general_losses"),
    [
        ({}, (None, None)),
        ({"prior_pull": 0.3}, (None, None)),
        ({"general_guard": GUARD}, (2.0, 3.0)),
        ({"general_guard": GUARD, "general": np.array([0.1, 0.2, 0.3, 0.4])}, (2.0, 3.0)),
        ({"general_guard": GUARD, "general": np.array([0.1, 0.2, 0.3, 0.4])}, (2.0, 1.0)),
    ],
)
def test_filtered_weights_stay_where_they_were_set_until_something_new_is_observed(
    options, general_losses
):
    rule = Dga(np.full(4, 0.25), step_size=2.0, filtered=True, **options)
    state = rule.init()
    before = zip(([3.0, 1.0, 0.0, -1.0], [2.0, 1.0, 1.0, -2.0]), general_losses, strict=True)
    for scores, loss in before:
        observed = Alignments(np.array(scores), 1.0, standard_errors=np.full(4, 0.1))
        state = rule.update(state, replace(observed, counts=np.full(4, 8), general_loss=loss))
    assert np.abs(state.weights - 0.25).max() > 0.1
    target = np.array([0.1, 0.2, 0.7, 0.0])

    set_ = continue_from(rule, state, target)
    nothing = Alignments(np.zeros(4), 1.0, counts=np.zeros(4, dtype=np.int64))
    nothing = replace(nothing, general_loss=general_losses[-1])
    after = rule.update(set_, nothing)

    # An update of no sequence forgets a little of the scores.
    np.testing.assert_allclose(after.weights, target, atol=0.02)
    assert after.weights[3] == 0.0


def test_bandit_rewards_become_those_of_the_weights():
    rule = Odm(np.full(4, 0.25), smoothing=0.9)
    observed = DomainLosses(np.full(4, 2.0), np.full(4, 8), step=4000)
    state = rule.update(rule.init(), observed)
    state = rule.update(state, replace(observed, step=4001))
    far = continue_from(rule, state, CURRENT)
    # Another step of weights with the same rewards: only eps has moved, by a ten-thousandth.
    again = rule._mixture(far.memory, float(far.memory["exploration"][0]))
    np.testing.assert_allclose(again, CURRENT, rtol=1e-9)


def test_over_a_basis_its_distributions_are_weighted():
    basis = mixtures_of([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    rule = OverBasis(Dga(np.array([0.5, 0.5]), step_size=0.3), basis)
    state = continue_from(rule, rule.init(), np.array([0.9, 0.1]))
    np.testing.assert_array_equal(basis_weights(state.memory)[1], [0.9, 0.1])
    np.testing.assert_allclose(state.averaged_weights, [0.45, 0.47, 0.08], rtol=1e-15)
