"""What holds for every rule that moves weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.arrays import FloatArray
from megadga.mixers.ado import Ado
from megadga.mixers.base import (
    Alignments,
    DomainLosses,
    MixtureState,
    Observed,
    Scheduler,
    StepNumber,
    TargetAlignments,
)
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.doremi import Doremi
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.gradient_norm import GradientNorm
from megadga.mixers.grape import Grape
from megadga.mixers.odm import Odm
from megadga.mixers.safeguards import EpochBudget, RepeatDiscount
from megadga.mixers.schedule import Schedule
from megadga.mixers.scores import AutoStep
from megadga.mixers.static import Static
from megadga.mixers.targets import OverTargets
from tests.support.examples import examples

USUAL = st.floats(-50.0, 50.0)
TARGETS = np.array([0.5, 0.5])


def alignments(values: FloatArray, step: int) -> Observed:
    errors = np.full(values.shape[1], 0.1)
    return Alignments(values[0], 1.0, np.abs(values[1]), errors)


def alignments_and_a_loss(values: FloatArray, step: int) -> Observed:
    return Alignments(values[0], 1.0, general_loss=2.0 - step % 2)  # worse every other time


def target_alignments(values: FloatArray, step: int) -> Observed:
    losses, norms = np.array([2.0, 0.5]), np.array([1.0, 9.0])
    return TargetAlignments(values, losses, norms, np.abs(values[0]))


def domain_losses(values: FloatArray, step: int) -> Observed:
    # A loss of 0 stands for a domain that was not drawn.
    counts = (values[0] != 0.0).astype(np.int64)
    return DomainLosses(values[0], counts, step, values[1])


def output_norms(values: FloatArray, step: int) -> Observed:
    observed = domain_losses(values, step)
    assert isinstance(observed, DomainLosses)
    return replace(observed, output_norms=np.abs(values[1]))


def step_number(values: FloatArray, step: int) -> Observed:
    return StepNumber(step)


@dataclass(frozen=True)
class Rule:
    """A rule by its first mixture, and an observation of its kind by any numbers (2, K)."""

    starting_at: Callable[[FloatArray], Scheduler]
    observing: Callable[[FloatArray, int], Observed]


def guarded_dga(initial: FloatArray) -> Scheduler:
    return Dga(
        initial,
        step_size=AutoStep(spread=0.5),
        ema=0.3,
        floor=0.2 / initial.size,
        prior_pull=0.1,
        min_signal=0.1,
        max_change=0.2,
        warmup=1,
    )


def general_dga(initial: FloatArray) -> Scheduler:
    return Dga(initial, step_size=0.3, ema=0.4, general_guard=GeneralGuard(max_rise=0.5, pull=0.8))


def ramp(initial: FloatArray) -> Scheduler:
    return Schedule(
        np.array([0, 3]), np.stack([initial, initial**2 / (initial**2).sum()]), "linear"
    )


def filtered_dga(initial: FloatArray) -> Scheduler:
    return Dga(
        initial,
        step_size=2.0,
        filtered=True,
        max_change=0.5,
        budget=EpochBudget(2.0, np.full(initial.size, 0.3), total_steps=5),
        discount=RepeatDiscount(1.0, np.full(initial.size, 0.3), total_steps=5),
    )


def alignments_in_training(values: FloatArray, step: int) -> Observed:
    observed = alignments(values, step)
    assert isinstance(observed, Alignments)
    epochs = np.full(values.shape[1], 0.3 * step / values.shape[1])
    counts = (np.abs(values[1]) % 3.0).astype(np.int64)
    return replace(observed, counts=counts, step=step, epochs=epochs)


RULES = {
    "static": Rule(Static, alignments),
    "dga": Rule(lambda initial: Dga(initial, step_size=0.3, ema=0.4), alignments),
    "dga with guards": Rule(guarded_dga, alignments),
    "filtered dga": Rule(filtered_dga, alignments_in_training),
    "dga with a general guard": Rule(general_dga, alignments_and_a_loss),
    "doge": Rule(lambda initial: Doge(initial, step_size=0.3), alignments),
    "doremi": Rule(Doremi, domain_losses),
    "ado": Rule(
        lambda initial: Ado(initial, warmup=1, min_weight=0.1 / initial.size), domain_losses
    ),
    "gradient_norm": Rule(GradientNorm, output_norms),
    "odm": Rule(Odm, domain_losses),
    "odm as in code": Rule(
        lambda initial: Odm(initial, warmup=2, reward="exponential"), domain_losses
    ),
    "grape": Rule(
        lambda initial: Grape(initial, TARGETS, step_size=0.3, task_step_size=0.2),
        target_alignments,
    ),
    "grape, clipped": Rule(
        lambda initial: Grape(
            initial, TARGETS, step_size=0.3, task_step_size=0.2, score="clipped"
        ),
        target_alignments,
    ),
    "sum of targets": Rule(
        lambda initial: OverTargets(Dga(initial, step_size=0.3, ema=0.4), np.array([1.0, 2.0])),
        target_alignments,
    ),
    "worst of targets": Rule(
        lambda initial: OverTargets(
            Dga(initial, step_size=0.3), np.array([1.0, 2.0]), "worst", "clipped"
        ),
        target_alignments,
    ),
    "schedule": Rule(ramp, step_number),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def each_rule() -> Iterator[Rule]:
    """Every rule on one example: to draw it takes longer than most rules do."""
    for name, rule in RULES.items():
        note(name)  # the last one is the one that fails
        yield rule


@st.composite
def runs(draw, values=USUAL):
    """A first mixture, and the numbers of a few updates, all over one number of domains."""
    num_domains = draw(st.integers(1, 9))
    masses = draw(arrays(np.float64, num_domains, elements=st.floats(1e-6, 1.0)))
    blocks = arrays(np.float64, (2, num_domains), elements=values)
    return masses / masses.sum(), draw(st.lists(blocks, min_size=1, max_size=4))


def states(rule: Rule, initial: FloatArray, blocks) -> list[MixtureState]:
    """The states of a run, from the first on."""
    scheduler = rule.starting_at(initial)
    found = [scheduler.init()]
    for step, values in enumerate(blocks, start=1):
        found.append(scheduler.update(found[-1], rule.observing(values, step)))
    return found


def assert_simplex(state: MixtureState, *, tolerance: float = 1e-12) -> None:
    for weights in (state.weights, state.averaged_weights):
        assert np.isfinite(weights).all()
        assert (weights >= 0.0).all()
        assert weights.sum() == pytest.approx(1.0, abs=tolerance)


def assert_equal_bits(first: MixtureState, second: MixtureState) -> None:
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.averaged_weights, second.averaged_weights)
    assert (first.num_updates, first.num_skipped) == (second.num_updates, second.num_skipped)
    assert first.memory.keys() == second.memory.keys()
    for name, remembered in first.memory.items():
        np.testing.assert_array_equal(remembered, second.memory[name])


def saved_and_loaded(state: MixtureState) -> MixtureState:
    def copied(array: FloatArray) -> FloatArray:
        return np.frombuffer(array.tobytes()).reshape(array.shape)

    memory = {name: copied(remembered) for name, remembered in state.memory.items()}
    return replace(
        state,
        weights=copied(state.weights),
        averaged_weights=copied(state.averaged_weights),
        memory=memory,
    )


@given(run=runs())
def test_weights_stay_on_the_simplex(run):
    for rule in each_rule():
        for state in states(rule, *run):
            assert_simplex(state)


@given(run=runs(values=st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_of_any_size_leave_finite_weights(run):
    for rule in each_rule():
        for state in states(rule, *run):
            assert_simplex(state)


@given(run=runs(), data=st.data())
def test_renaming_domains_renames_the_weights(run, data):
    initial, blocks = run
    order = np.array(data.draw(st.permutations(range(initial.size))))
    for rule in each_rule():
        if rule is RULES["worst of targets"]:
            continue  # which target is the worst of almost equal ones may be up to rounding
        state = states(rule, initial, blocks)[-1]
        renamed = states(rule, initial[order], [values[:, order] for values in blocks])[-1]
        # Sums over the domains are rounded in another order, nothing else may differ.
        np.testing.assert_allclose(renamed.weights, state.weights[order], rtol=1e-9)
        np.testing.assert_allclose(
            renamed.averaged_weights, state.averaged_weights[order], rtol=1e-9
        )


@given(run=runs())
def test_a_state_that_was_saved_continues_with_equal_bits(run):
    initial, blocks = run
    for rule in each_rule():
        scheduler = rule.starting_at(initial)
        state = resumed = scheduler.init()
        for step, values in enumerate(blocks, start=1):
            observed = rule.observing(values, step)
            state = scheduler.update(state, observed)
            resumed = saved_and_loaded(scheduler.update(saved_and_loaded(resumed), observed))
            assert_equal_bits(resumed, state)


@given(run=runs())
def test_an_update_leaves_the_state_it_got_as_it_was(run):
    initial, blocks = run
    for rule in each_rule():
        scheduler = rule.starting_at(initial)
        before = scheduler.init()
        copy = saved_and_loaded(before)
        scheduler.update(before, rule.observing(blocks[0], 1))
        assert_equal_bits(before, copy)


@given(run=runs())
def test_every_update_is_counted_once(run):
    initial, blocks = run
    for rule in each_rule():
        found = states(rule, initial, blocks)
        counted = [state.num_updates + state.num_skipped for state in found]
        expected = 0 if rule.starting_at is Static else len(blocks)
        assert counted[-1] == expected


@examples(0.5)
@given(values=st.lists(USUAL, min_size=6, max_size=6))
def test_a_single_domain_keeps_all_the_weight(values):
    blocks = np.array(values).reshape(3, 2, 1)
    for rule in each_rule():
        for state in states(rule, np.array([1.0]), blocks):
            np.testing.assert_allclose(state.averaged_weights, [1.0], rtol=1e-15)


@every_rule
def test_262_144_domains_are_no_trouble(rule):
    rng = np.random.default_rng(0)
    initial = rng.dirichlet(np.full(262_144, 0.5))
    for state in states(rule, initial, rng.normal(size=(2, 2, 262_144))):
        assert_simplex(state, tolerance=1e-9)


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"static", "schedule"}))
def test_observations_of_other_domains_are_refused(name):
    rule = RULES[name]
    scheduler = rule.starting_at(np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"expected shape \(2,\), found \(3,\)"):
        scheduler.update(scheduler.init(), rule.observing(np.ones((2, 3)), 1))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Alignments(np.ones(2), 1.0, np.ones(3)),
        lambda: DomainLosses(np.ones(2), np.ones(3, np.int64), 1),
        lambda: DomainLosses(np.ones(2), np.ones(2, np.int64), 1, np.ones(1)),
    ],
)
def test_arrays_of_different_lengths_are_refused(wrong):
    with pytest.raises(ValueError, match="expected arrays of one shape"):
        wrong()
