"""What each rule goes on from when domains, specific sets or the rule itself change."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.ado import Ado
from megadga.mixers.base import (
    Alignments,
    DomainLosses,
    Mixtures,
    MixtureState,
    StepNumber,
    TargetAlignments,
)
from megadga.mixers.basis import WEIGHTS, OverBasis
from megadga.mixers.carrying import MixtureChange, carried_state, entering_shares
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.doremi import Doremi
from megadga.mixers.filtering import posterior
from megadga.mixers.general_guard import GeneralGuard, read_guard
from megadga.mixers.gradient_norm import GradientNorm
from megadga.mixers.grape import Grape, task_weights
from megadga.mixers.odm import Odm
from megadga.mixers.schedule import Schedule
from megadga.mixers.static import Static
from megadga.mixers.targets import OverTargets

TARGETS = np.array([0.5, 0.5])


def uniform(size):
    return np.full(size, 1.0 / size)


RULES = {
    "dga": lambda k: Dga(uniform(k), 0.5, ema=0.5),
    "filtered": lambda k: Dga(uniform(k), 0.5, filtered=True),
    "doge": lambda k: Doge(uniform(k), 0.5),
    "doremi": lambda k: Doremi(uniform(k)),
    "ado": lambda k: Ado(uniform(k), warmup=1),
    "gradient_norm": lambda k: GradientNorm(uniform(k)),
    "odm": lambda k: Odm(uniform(k)),
    "odm by exponentials": lambda k: Odm(uniform(k), reward="exponential"),
    "grape": lambda k: Grape(uniform(k), TARGETS, 0.5, 0.5),
    "several targets": lambda k: OverTargets(Dga(uniform(k), 0.5), TARGETS),
}


def observation(rule, size, step, seed):
    rng = np.random.default_rng(seed)
    if isinstance(rule, Ado | Doremi | GradientNorm | Odm):
        losses, counts = rng.random(size), rng.integers(0, 3, size)
        counts[0] = 1
        return DomainLosses(losses, counts, step, losses - 0.5, losses)
    if isinstance(rule, Grape | OverTargets):
        return TargetAlignments(rng.normal(size=(2, size)), rng.random(2) + 1.0, np.ones(2))
    return Alignments(rng.normal(size=size), 1.0, np.ones(size), step=step, epochs=np.zeros(size))


def trained(name, size, *, updates=4):
    rule = RULES[name](size)
    state = rule.init()
    for update in range(updates):
        state = rule.update(state, observation(rule, size, update + 1, update))
    return state


def change(sources, *, before, entering=None, **more):
    sources = np.array(sources)
    shares = entering_shares("uniform_share", tuple("abcdefgh"[: sources.size]), sources, sources)
    shares = shares if entering is None else np.array(entering)
    return MixtureChange(sources, before, shares, step=4, **more)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_what_it_knows_of_the_domains_that_stay(name):
    state, rule = trained(name, 4), RULES[name](4)
    after = carried_state(rule, state, change([3, -1, 0, 1], before=4))

    for old, new in (
        (state.weights, after.weights),
        (state.averaged_weights, after.averaged_weights),
    ):
        assert new.sum() == pytest.approx(1.0, abs=1e-12)
        assert new[1] == pytest.approx(0.25, abs=1e-12)
        np.testing.assert_allclose(new[[0, 2, 3]] / new[0], old[[3, 0, 1]] / old[3], rtol=1e-12)
    first = rule.init()
    assert after.memory.keys() == first.memory.keys()
    assert (after.num_updates, after.num_skipped) == (state.num_updates, state.num_skipped)
    rule.update(after, observation(rule, 4, 5, 9))  # goes on


@pytest.mark.parametrize("name", RULES)
def test_the_weights_alone_are_enough_to_say_what_they_will_be(name):
    # That is all that a checkpoint says of them before its model is loaded.
    state = replace(trained(name, 3), memory={})
    after = carried_state(RULES[name](3), state, change([0, 1, 2], before=3))
    np.testing.assert_array_equal(after.averaged_weights, state.averaged_weights)


@pytest.mark.parametrize("name", RULES)
def test_growth_alone_changes_no_bit_of_the_mixture(name):
    state = trained(name, 3)
    after = carried_state(RULES[name](3), state, change([0, 1, 2], before=3))
    np.testing.assert_array_equal(after.weights, state.weights)
    np.testing.assert_array_equal(after.averaged_weights, state.averaged_weights)
    for key, array in state.memory.items():
        np.testing.assert_array_equal(after.memory[key], array)


@pytest.mark.parametrize("name", RULES)
def test_another_rule_starts_from_the_present_weights(name):
    state, rule = trained("doge", 3), RULES[name](3)
    after = carried_state(rule, state, change([0, 1, 2], before=3, same_rule=False))
    np.testing.assert_array_equal(after.weights, state.averaged_weights)
    np.testing.assert_array_equal(after.averaged_weights, state.averaged_weights)
    assert (after.num_updates, after.num_skipped) == (0, 0)
    assert after.memory.keys() == rule.init().memory.keys()


def test_filtered_scores_of_newcomers_are_unknown_and_others_are_kept():
    state = trained("filtered", 3)
    after = carried_state(RULES["filtered"](3), state, change([2, 0, -1], before=3))
    before, now = state.memory["filter_means"], after.memory["filter_means"]
    np.testing.assert_array_equal(now[:, :2], before[:, [2, 0]])
    np.testing.assert_array_equal(now[:, 2], 0.0)
    known = posterior(after.memory)
    assert known.variances[2] > known.variances[:2].max()


def test_memory_of_other_specific_sets_starts_anew():
    state = trained("filtered", 3)
    other = change([0, 1, 2], before=3, same_targets=False)
    after = carried_state(RULES["filtered"](3), state, other)
    np.testing.assert_array_equal(after.memory["filter_means"], 0.0)
    np.testing.assert_array_equal(after.weights, state.weights)

    for name in ("grape", "several targets"):
        state = trained(name, 3)
        after = carried_state(RULES[name](3), state, other)
        np.testing.assert_array_equal(task_weights(after), TARGETS)


def best(state):
    reading = read_guard(state.memory)
    assert reading is not None
    return reading.best


def test_the_guard_forgets_the_mean_loss_over_other_domains():
    rule = Dga(uniform(3), 0.5, general_guard=GeneralGuard(max_rise=0.1, pull=0.5))
    alignments = Alignments(np.ones(3), 1.0, general_loss=2.0)
    state = rule.update(rule.init(), alignments)
    grown = carried_state(rule, state, change([0, 1, 2], before=3))
    assert best(grown) == 2.0
    moved = carried_state(rule, state, change([0, 1, -1], before=3, same_validation=False))
    assert best(moved) == np.inf


def test_carried_weights_satisfy_the_floor():
    rule = Dga(uniform(3), 0.5, floor=0.2)
    state = replace(rule.init(), weights=np.array([0.2, 0.2, 0.6]))
    after = carried_state(rule, state, change([0, 1, -1], before=3, entering=[0.0, 0.0, 0.05]))
    assert after.weights.min() == pytest.approx(0.2)


def test_fixed_weights_and_schedules_are_what_the_rule_says_for_the_new_domains():
    state = trained("dga", 3)
    entering = change([0, 1, 2, -1], before=3)
    fixed = carried_state(Static(np.array([0.1, 0.2, 0.3, 0.4])), state, entering)
    np.testing.assert_array_equal(fixed.weights, [0.1, 0.2, 0.3, 0.4])
    stages = Schedule(np.array([0, 4]), np.stack([uniform(4), [0.7, 0.1, 0.1, 0.1]]))
    moved = carried_state(stages, state, entering)
    np.testing.assert_array_equal(moved.averaged_weights, [0.7, 0.1, 0.1, 0.1])
    assert isinstance(stages.update(moved, StepNumber(5)), MixtureState)


def test_over_a_basis_the_rows_keep_their_weights():
    def rows(num_domains, data):
        indices = np.array([0, 1, 2]) if num_domains == 3 else np.array([0, 1, 3])
        return Mixtures(("p", "q"), num_domains, np.array([0, 2, 3]), indices, np.array(data))

    rule = OverBasis(Dga(uniform(2), 0.5), rows(3, [0.5, 0.5, 1.0]))
    state = rule.update(rule.init(), Alignments(np.array([1.0, 0.0]), 1.0))
    wider = OverBasis(Dga(uniform(2), 0.5), rows(4, [0.25, 0.75, 1.0]))
    after = carried_state(wider, state, change([0, 1, 2, -1], before=3))
    np.testing.assert_array_equal(after.memory[WEIGHTS], state.memory[WEIGHTS])
    np.testing.assert_allclose(
        after.weights, state.memory[WEIGHTS] @ [[0.25, 0.75, 0, 0], [0, 0, 0, 1]]
    )


@given(data=st.data())
def test_a_change_of_domains_gives_a_mixture_with_the_entering_shares(data):
    before = data.draw(st.integers(1, 6))
    weights = data.draw(arrays(np.float64, before, elements=st.floats(0.0, 1.0)))
    weights[0] += 0.1
    weights /= weights.sum()
    stay = data.draw(st.lists(st.integers(0, before - 1), unique=True, max_size=before))
    enter = data.draw(st.integers(0 if stay else 1, 4))
    sources = np.array(data.draw(st.permutations(stay + [-1] * enter)))
    after = change(sources, before=before).mixture(weights)
    assert after.sum() == pytest.approx(1.0, abs=1e-9)
    assert (after >= 0.0).all()
    np.testing.assert_allclose(after[sources < 0], 1.0 / sources.size, rtol=1e-9)
    kept = sources >= 0
    old = weights[sources[kept]]
    if old.sum() > 0.0:
        np.testing.assert_allclose(after[kept] * old.sum(), old * after[kept].sum(), atol=1e-9)


def test_shares_of_entering_domains():
    names, tokens, sources = ("a", "b", "c"), np.array([10, 20, 70]), np.array([0, -1, -1])
    np.testing.assert_allclose(
        entering_shares("proportional", names, tokens, sources), [0.0, 0.2, 0.7]
    )
    np.testing.assert_allclose(
        entering_shares("uniform_share", names, tokens, sources), [0.0, 1 / 3, 1 / 3]
    )
    np.testing.assert_allclose(
        entering_shares({"b": 0.1, "c": 0.0}, names, tokens, sources), [0.0, 0.1, 0.0]
    )
    with pytest.raises(
        ValueError, match=r"for each domain that enters \(b, c\), found .* of c, d"
    ):
        entering_shares({"a": 0.1, "b": 0.1, "d": 0.1}, names, tokens, sources)
    with pytest.raises(ValueError, match=r"a sum of at most 1, found 1\.5"):
        entering_shares({"b": 0.75, "c": 0.75}, names, tokens, sources)
