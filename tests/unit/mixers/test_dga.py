import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.base import Alignments, MixtureState, Scheduler
from megadga.mixers.dga import Dga
from megadga.mixers.general_guard import GeneralGuard
from megadga.mixers.safeguards import EpochBudget, RepeatDiscount, signal_to_noise
from megadga.mixers.scores import SCORES, AutoStep

LN2, LN3 = math.log(2), math.log(3)


def measured(dots, squared_norms=None, specific_squared_norm=1.0, errors=None) -> Alignments:
    dots = np.array(dots, dtype=np.float64)
    norms = np.ones_like(dots) if squared_norms is None else np.array(squared_norms, np.float64)
    errors = None if errors is None else np.array(errors, np.float64)
    return Alignments(dots, specific_squared_norm, norms, errors)


def after(scheduler: Scheduler, *observed: Alignments) -> MixtureState:
    state = scheduler.init()
    for alignments in observed:
        state = scheduler.update(state, alignments)
    return state


def finite_mixtures(num_domains: int):
    masses = arrays(np.float64, num_domains, elements=st.floats(1e-6, 1.0))
    return masses.map(lambda mass: mass / mass.sum())


@st.composite
def problems(draw, scores=None):
    """A mixture, and the scores of a few updates, all over one number of domains."""
    num_domains = draw(st.integers(1, 12))
    scores = st.floats(-50.0, 50.0) if scores is None else scores
    initial = draw(finite_mixtures(num_domains))
    rows = st.lists(arrays(np.float64, num_domains, elements=scores), min_size=1, max_size=4)
    return initial, draw(rows)


def test_two_updates_with_ema_equal_the_values_worked_out_by_hand():
    # eta = 1/2, beta = 1/4, alpha = alpha_avg = (1/2, 1/4, 1/4).
    scheduler = Dga(np.array([1 / 2, 1 / 4, 1 / 4]), step_size=0.5, ema=0.25)

    # Update 1: a = (0, 2 ln 2, 4 ln 2), so exp(eta a) = (1, 2, 4).
    # alpha times that is (1/2, 1/2, 1), of sum 2: alpha becomes (1/4, 1/4, 1/2).
    # Its average becomes 3/4 of (1/2, 1/4, 1/4) plus 1/4 of (1/4, 1/4, 1/2):
    # (6/16 + 1/16, 3/16 + 1/16, 3/16 + 2/16), which is (7/16, 4/16, 5/16).
    state = scheduler.update(scheduler.init(), measured([0, 2 * LN2, 4 * LN2]))
    np.testing.assert_allclose(state.weights, [1 / 4, 1 / 4, 1 / 2], rtol=1e-14)
    np.testing.assert_allclose(state.averaged_weights, [7 / 16, 4 / 16, 5 / 16], rtol=1e-14)

    # Update 2: a = (2 ln 3, 0, 0), so exp(eta a) = (3, 1, 1).
    # alpha times that is (3/4, 1/4, 1/2), of sum 3/2: alpha becomes (1/2, 1/6, 1/3).
    # Its average becomes 3/4 of (7/16, 4/16, 5/16) plus 1/4 of (1/2, 1/6, 1/3):
    # (21/64 + 8/64, 9/48 + 2/48, 45/192 + 16/192), which is (29/64, 11/48, 61/192).
    state = scheduler.update(state, measured([2 * LN3, 0, 0]))
    np.testing.assert_allclose(state.weights, [1 / 2, 1 / 6, 1 / 3], rtol=1e-14)
    np.testing.assert_allclose(state.averaged_weights, [29 / 64, 11 / 48, 61 / 192], rtol=1e-14)
    assert (state.num_updates, state.num_skipped) == (2, 0)


def test_a_pull_halfway_to_the_prior_starts_from_the_geometric_mean():
    scheduler = Dga(
        np.array([1 / 5, 4 / 5]), step_size=2.0, prior=np.array([1 / 2, 1 / 2]), prior_pull=0.5
    )
    # alpha^(1/2) prior^(1/2) is (sqrt(1/10), sqrt(4/10)), as 1 to 2: (1/3, 2/3). Times
    # exp(eta a) = (4, 1) it is (4/3, 2/3), of sum 2: alpha becomes (2/3, 1/3).
    state = scheduler.update(scheduler.init(), measured([LN2, 0]))
    np.testing.assert_allclose(state.weights, [2 / 3, 1 / 3], rtol=1e-14)
    # Now it is (sqrt(2/6), sqrt(1/6)), as sqrt(2) to 1; times exp(eta a) = (sqrt(2), 1): 2 to 1.
    state = scheduler.update(state, measured([LN2 / 4, 0]))
    np.testing.assert_allclose(state.weights, [2 / 3, 1 / 3], rtol=1e-14)


def test_a_full_pull_forgets_all_but_the_last_scores():
    initial = np.array([0.2, 0.3, 0.5])
    scheduler = Dga(initial, step_size=1.0, prior_pull=1.0)
    forgotten = after(scheduler, measured([5, -5, 1]), measured([0.5, 0, 0]))
    once = after(scheduler, measured([0.5, 0, 0]))
    np.testing.assert_allclose(forgotten.weights, once.weights, rtol=1e-12)


def test_the_floor_is_paid_for_by_the_domains_above_it():
    # exp(eta a) = (1, 3, 16), alpha uniform: (1, 3, 16) / 20 = (0.05, 0.15, 0.80). The floor lifts
    # the first to 0.1; the others share 0.9 as 15 to 80: 0.9 * 15/95 and 0.9 * 80/95.
    scheduler = Dga(np.full(3, 1 / 3), step_size=1.0, floor=0.1)
    state = after(scheduler, measured([0, LN3, 4 * LN2]))
    np.testing.assert_allclose(state.weights, [0.1, 13.5 / 95, 72 / 95], rtol=1e-14)


def test_the_initial_mixture_is_floored_too():
    state = Dga(np.array([0.0, 1.0]), step_size=1.0, floor=0.25).init()
    np.testing.assert_array_equal(state.weights, [0.25, 0.75])
    np.testing.assert_array_equal(state.averaged_weights, [0.25, 0.75])


def test_a_floored_domain_is_pulled_to_the_floored_prior():
    scheduler = Dga(np.array([0.0, 1.0]), step_size=1.0, floor=0.25, prior_pull=0.5)
    state = after(scheduler, measured([0, 0]))
    np.testing.assert_allclose(state.weights, [0.25, 0.75], rtol=1e-14)


def test_no_ema_means_the_average_is_the_mixture_to_the_bit():
    state = after(Dga(np.array([0.3, 0.7]), step_size=0.1), measured([0.1, 0.7]), measured([3, 1]))
    np.testing.assert_array_equal(state.weights, state.averaged_weights)


@given(problem=problems(), ema=st.floats(0.01, 1.0))
def test_a_step_size_of_zero_never_moves_a_bit(problem, ema):
    initial, scores = problem
    state = after(Dga(initial, step_size=0.0, ema=ema), *map(measured, scores))
    np.testing.assert_array_equal(state.weights, initial)
    np.testing.assert_array_equal(state.averaged_weights, initial)
    assert state.num_updates == len(scores)


@given(problem=problems(), ema=st.floats(0.01, 1.0), step_size=st.floats(1e-3, 10.0))
def test_both_mixtures_stay_on_the_simplex(problem, ema, step_size):
    initial, scores = problem
    state = after(Dga(initial, step_size=step_size, ema=ema), *map(measured, scores))
    for weights in (state.weights, state.averaged_weights):
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert (weights > 0.0).all()


@given(problem=problems(), data=st.data())
def test_renaming_domains_renames_the_result(problem, data):
    initial, scores = problem
    order = np.array(data.draw(st.permutations(range(initial.size))))
    scheduler = Dga(initial, step_size=0.3, ema=0.4, floor=0.2 / initial.size, prior_pull=0.1)
    state = after(scheduler, *map(measured, scores))
    of_renamed = replace(scheduler, initial=initial[order])
    renamed = after(of_renamed, *(measured(row[order]) for row in scores))
    # Sums over the domains are rounded in another order, nothing else may differ.
    np.testing.assert_allclose(renamed.weights, state.weights[order], rtol=1e-9)
    np.testing.assert_allclose(renamed.averaged_weights, state.averaged_weights[order], rtol=1e-9)


@given(problem=problems(), share=st.floats(0.0, 1.0), pull=st.floats(0.0, 1.0))
def test_no_weight_falls_below_the_floor(problem, share, pull):
    initial, scores = problem
    floor = share / initial.size
    scheduler = Dga(initial, step_size=1.0, ema=0.3, floor=floor, prior_pull=pull)
    state = scheduler.init()
    for row in scores:
        state = scheduler.update(state, measured(row))
        assert (state.weights >= floor).all()
        assert (state.averaged_weights >= floor * (1 - 1e-15)).all()  # one rounding
        assert state.weights.sum() == pytest.approx(1.0, abs=1e-12)


@given(
    problem=problems(scores=st.floats(allow_nan=False, allow_infinity=False)),
    step_size=st.floats(1e-3, 1e3),
)
def test_scores_of_any_size_do_not_overflow(problem, step_size):
    initial, scores = problem
    state = after(Dga(initial, step_size=step_size), *map(measured, scores))
    assert np.isfinite(state.weights).all()
    assert (state.weights > 0.0).all()
    assert state.weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_domain_that_was_hopeless_can_come_back():
    scheduler = Dga(np.array([0.5, 0.5]), step_size=1.0)
    state = after(scheduler, measured([-1e300, 0]), measured([1e4, 0]))
    np.testing.assert_allclose(state.weights, [1.0, 0.0], atol=1e-300)


def test_a_domain_at_zero_stays_there_even_if_it_scores_best():
    state = after(Dga(np.array([0.0, 0.4, 0.6]), step_size=1.0), measured([1e308, -1e308, -1e308]))
    np.testing.assert_allclose(state.weights, [0.0, 0.4, 0.6], rtol=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["dots", "squared_norms", "specific_squared_norm", "errors"])
def test_a_measurement_that_is_not_finite_is_counted_and_left_out(where, value):
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, ema=0.5)
    before = after(scheduler, measured([0.2, 0.1]))
    parts: dict[str, Any] = {"dots": [1.0, 2.0], "squared_norms": [1.0, 1.0]}
    parts[where] = value if where == "specific_squared_norm" else [1.0, value]
    state = scheduler.update(before, measured(**parts))
    np.testing.assert_array_equal(state.weights, before.weights)
    np.testing.assert_array_equal(state.averaged_weights, before.averaged_weights)
    assert (state.num_updates, state.num_skipped) == (1, 1)


def test_an_update_leaves_the_state_it_got_as_it_was():
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, ema=0.5, floor=0.1)
    before = scheduler.init()
    scheduler.update(before, measured([3, 1]))
    np.testing.assert_array_equal(before.weights, [0.4, 0.6])
    np.testing.assert_array_equal(before.averaged_weights, [0.4, 0.6])
    assert (before.num_updates, before.num_skipped) == (0, 0)


@pytest.mark.parametrize("score", ["raw", "cosine", "clipped", "adam"])
def test_the_named_score_enters_the_exponent(score):
    # |g| = (4, 1/2), |v| = 2: raw (4, 1/4); cosine (4/8, (1/4)/1); clipped (4/4/2, 1/4/2).
    scores = {"cosine": [0.5, 0.25], "clipped": [0.5, 0.125]}.get(score, [4, 0.25])
    alignments = measured([4, 0.25], [16, 0.25], 4.0)
    state = after(Dga(np.array([0.5, 0.5]), step_size=1.0, score=score), alignments)
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(state.weights, expected, rtol=1e-14)


@pytest.mark.parametrize("score", SCORES)
def test_it_observes_what_its_score_needs(score):
    scheduler: Scheduler = Dga(np.array([0.5, 0.5]), step_size=1.0, score=score)
    assert scheduler.observes == SCORES[score].needs


def test_an_update_that_noise_would_explain_is_counted_and_left_out():
    # Scores 0 and 2 have variance 2 over the domains; noise of variance 1: sqrt((2 - 1) / 1) = 1.
    observed = measured([0, 2], errors=[1, 1])
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, ema=0.5, min_signal=1.0)
    assert after(scheduler, observed).num_updates == 1
    state = after(replace(scheduler, min_signal=1.001), observed)
    np.testing.assert_array_equal(state.weights, [0.4, 0.6])
    np.testing.assert_array_equal(state.averaged_weights, [0.4, 0.6])
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_the_signal_is_that_of_the_scores_not_of_the_inner_products():
    # |g| = (1, 4): inner products (1, 4) are equal as cosines, whatever the noise.
    observed = measured([1, 4], [1, 16], errors=[0.01, 0.01])
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, min_signal=0.5)
    assert after(scheduler, observed).num_skipped == 0
    assert after(replace(scheduler, score="cosine"), observed).num_skipped == 1


@given(problem=problems(), error=st.floats(0.0, 10.0))
def test_without_a_least_signal_noise_changes_no_bit(problem, error):
    initial, scores = problem
    noisy = (measured(row, errors=np.full(initial.size, error)) for row in scores)
    scheduler = Dga(initial, step_size=0.3, ema=0.4)
    state, expected = after(scheduler, *noisy), after(scheduler, *map(measured, scores))
    np.testing.assert_array_equal(state.weights, expected.weights)
    np.testing.assert_array_equal(state.averaged_weights, expected.averaged_weights)


@given(problem=problems(), error=st.floats(0.0, 10.0), least=st.floats(0.01, 3.0))
def test_an_update_is_applied_or_left_out_as_a_whole(problem, error, least):
    initial, scores = problem
    errors = np.full(initial.size, error)
    scheduler = Dga(initial, step_size=0.3, ema=0.4, min_signal=least)
    strong = [row for row in scores if signal_to_noise(row, errors) >= least]
    state = after(scheduler, *(measured(row, errors=errors) for row in scores))
    expected = after(replace(scheduler, min_signal=0.0), *map(measured, strong))
    np.testing.assert_array_equal(state.averaged_weights, expected.averaged_weights)
    assert (state.num_updates, state.num_skipped) == (len(strong), len(scores) - len(strong))


def test_a_least_signal_without_standard_errors_is_refused():
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, min_signal=0.5)
    message = r"alignments: expected standard errors, as min_signal is 0\.5, found none"
    with pytest.raises(ValueError, match=message):
        scheduler.update(scheduler.init(), measured([1, 2]))


def test_an_update_moves_no_more_of_a_batch_than_it_may():
    # Unbounded, (1/2, 1/2) times (4, 1) is (4/5, 1/5), at total variation 3/10.
    scheduler = Dga(np.array([0.5, 0.5]), step_size=2.0, max_change=0.1)
    state = after(scheduler, measured([LN2, 0]))
    np.testing.assert_allclose(state.weights, [0.6, 0.4], rtol=1e-14)
    # From there on: (24, 4) / 28 = (6/7, 1/7), at 9/35; another tenth of the way.
    state = scheduler.update(state, measured([LN2, 0]))
    np.testing.assert_allclose(state.weights, [0.7, 0.3], rtol=1e-14)


def test_the_first_updates_are_left_out_while_warming_up():
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, ema=0.5, warmup=2)
    measurements = [measured([5, 0]), measured([-3, 2]), measured([1, 2])]
    state = after(scheduler, *measurements)
    expected = after(replace(scheduler, warmup=0), measurements[-1])
    np.testing.assert_array_equal(state.averaged_weights, expected.averaged_weights)
    assert (state.num_updates, state.num_skipped) == (1, 2)


def test_after_the_freeze_both_mixtures_stay():
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0, ema=0.5, freeze_after=2)
    first = [measured([5, 0]), measured([math.nan, 2])]
    state, frozen = after(scheduler, *first), after(scheduler, *first, measured([9, 0]))
    np.testing.assert_array_equal(frozen.weights, state.weights)
    np.testing.assert_array_equal(frozen.averaged_weights, state.averaged_weights)
    assert (frozen.num_updates, frozen.num_skipped) == (1, 2)


@given(problem=problems(), scale=st.floats(1e-6, 1e6))
def test_an_automatic_step_does_not_depend_on_the_scale_of_the_scores(problem, scale):
    initial, scores = problem
    # Where scores are nearly equal, their spread is rounding, which scaling changes.
    scores = [np.round(row) for row in scores]
    scheduler = Dga(initial, step_size=AutoStep(spread=0.2))
    state = after(scheduler, *map(measured, scores))
    scaled = after(scheduler, *(measured(scale * row) for row in scores))
    np.testing.assert_allclose(scaled.weights, state.weights, rtol=1e-9)


def test_an_automatic_step_spreads_the_exponents_as_told():
    # Scores (0, 2): standard deviation sqrt(2), so eta = ln 3 and exp(eta a) = (1, 9).
    scheduler = Dga(np.array([0.5, 0.5]), step_size=AutoStep(spread=math.sqrt(2) * LN3))
    state = after(scheduler, measured([0, 2]))
    np.testing.assert_allclose(state.weights, [0.1, 0.9], rtol=1e-14)
    state = scheduler.update(state, measured([7, 7]))
    np.testing.assert_allclose(state.weights, [0.1, 0.9], rtol=1e-14)


@pytest.mark.parametrize(("ema", "score"), [(1.0, "raw"), (0.2, "raw"), (0.2, "clipped")])
def test_on_a_quadratic_problem_the_mixture_converges_to_the_best(ema, score):
    # Domain i pulls the parameters to its centre: l_i(x) = |x - c_i|^2 / 2. The specific loss
    # |x - t|^2 / 2 has its target inside the centres' triangle, t = sum_i best_i c_i, and the
    # centres are affinely independent: training on `best` alone ends in the target.
    centres = np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    best = np.array([0.5, 0.3, 0.2])
    target = best @ centres
    scheduler = Dga(np.full(3, 1 / 3), step_size=0.3, ema=ema, score=score)
    state, parameters = scheduler.init(), np.zeros(2)
    for _ in range(500):
        for _ in range(5):
            parameters = parameters - 0.5 * (parameters - state.averaged_weights @ centres)
        gradients, specific = parameters - centres, parameters - target
        squared_norms = (gradients**2).sum(axis=1)
        observed = measured(gradients @ specific, squared_norms, float(specific @ specific))
        state = scheduler.update(state, observed)
    np.testing.assert_allclose(state.averaged_weights, best, atol=1e-6)
    np.testing.assert_allclose(parameters, target, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial: expected a sum of 1"),
        ({"step_size": -1.0}, "step_size: expected"),
        ({"step_size": math.inf}, "step_size: expected"),
        ({"step_size": math.nan}, "step_size: expected"),
        ({"ema": 0.0}, "ema: expected 0 < ema <= 1, found 0.0"),
        ({"ema": 1.5}, "ema: expected"),
        ({"score": "cosin"}, "score: expected one of raw, cosine, clipped, adam, found 'cosin'"),
        ({"floor": 0.51}, "floor: expected 0 <= floor <= 1/2, found 0.51"),
        ({"floor": -0.1}, "floor: expected"),
        ({"max_change": 0.0}, "max_change: expected 0 < max_change <= 1, found 0.0"),
        ({"warmup": -1}, "warmup: expected at least 0 updates, found -1"),
        (
            {"warmup": 3, "freeze_after": 3},
            "freeze_after: expected more than the 3 updates of warmup, found 3",
        ),
        ({"prior": np.array([1.0])}, r"prior: expected shape \(2,\), found \(1,\)"),
        ({"prior": np.array([0.0, 1.0])}, "prior: expected > 0 wherever initial is"),
        ({"prior_pull": 1.1}, "prior_pull: expected"),
        ({"min_signal": -0.1}, "min_signal: expected a finite number >= 0, found -0.1"),
        ({"min_signal": math.inf}, "min_signal: expected"),
        ({"min_signal": math.nan}, "min_signal: expected"),
    ],
)
def test_an_argument_out_of_range_is_named(change, message):
    arguments = {"initial": np.array([0.4, 0.6]), "step_size": 1.0} | change
    with pytest.raises(ValueError, match=message):
        Dga(**arguments)


def test_alignments_of_another_number_of_domains_are_refused():
    scheduler = Dga(np.array([0.4, 0.6]), step_size=1.0)
    with pytest.raises(ValueError, match=r"expected shape \(2,\), found \(3,\)"):
        scheduler.update(scheduler.init(), measured([1, 2, 3]))


def filtered_dga(**options: Any) -> Dga:
    return Dga(np.array([0.5, 0.25, 0.25]), step_size=1.0, filtered=True, **options)


def in_training(dots, *, step: int, epochs=(0.0, 0.0, 0.0)) -> Alignments:
    counts = np.full(3, 8)
    known = {"counts": counts, "step": step, "epochs": np.array(epochs)}
    return replace(measured(dots, errors=np.full(3, 0.01)), **known)


def test_filtered_weights_are_the_prior_times_exp_of_what_is_known():
    scheduler = filtered_dga()
    state = after(scheduler, *(in_training([1.0, 0.0, 0.0], step=step) for step in range(1, 30)))
    # One domain above two equal ones by far more than the noise: (sqrt(2), -1/sqrt(2), ...).
    logits = np.log([0.5, 0.25, 0.25]) + np.array([2.0, -1.0, -1.0]) / 2**0.5
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(state.weights, expected, atol=5e-3)
    # They do not add up.
    later = after(scheduler, *(in_training([1.0, 0.0, 0.0], step=step) for step in range(1, 90)))
    np.testing.assert_allclose(later.weights, expected, atol=5e-3)


def test_filtered_weights_change_sides_with_the_scores():
    updates = [in_training([1.0, 0.0, 0.0], step=step) for step in range(1, 20)]
    updates += [in_training([0.0, 1.0, 0.0], step=step) for step in range(20, 60)]
    state = after(filtered_dga(prior=np.full(3, 1 / 3)), *updates)
    assert state.weights[1] > 0.5 > state.weights[0]


def test_the_guard_pulls_filtered_weights_back_to_the_prior():
    guard = GeneralGuard(max_rise=0.1, pull=1.0)
    losses = [5.0, 5.0, 6.0]
    updates = [
        replace(in_training([1.0, 0.0, 0.0], step=step), general_loss=loss)
        for step, loss in enumerate(losses, start=1)
    ]
    scheduler = filtered_dga(general_guard=guard)
    assert after(scheduler, *updates[:2]).weights[0] > 0.55
    np.testing.assert_allclose(after(scheduler, *updates).weights, [0.5, 0.25, 0.25])


def test_a_budget_caps_a_domain_that_is_nearly_used_up():
    budget = EpochBudget(4.0, np.full(3, 0.1), total_steps=30)
    updates = [in_training([1.0, 0.0, 0.0], step=5, epochs=(0.5, 0.0, 0.0))] * 5
    free = after(filtered_dga(), *updates).weights
    assert free[0] > 0.55
    used = [*updates, in_training([1.0, 0.0, 0.0], step=20, epochs=(3.9, 0.1, 0.1))]
    state = after(filtered_dga(budget=budget), *used)
    assert state.weights[0] == pytest.approx(0.1 / (0.1 * 10))
    assert state.weights[1] == pytest.approx(state.weights[2])


def test_a_discount_gives_what_a_domain_loses_to_those_that_are_not_repeated():
    updates = [in_training([1.0, 0.5, 0.0], step=5, epochs=(0.9, 0.9, 0.0))] * 5
    free = after(filtered_dga(), *updates).weights
    discount = RepeatDiscount(1.0, np.full(3, 0.1), total_steps=30)
    found = after(filtered_dga(discount=discount), *updates).weights
    repeats = np.maximum([0.9, 0.9, 0.0] + found * 2.5 - 1.0, 0.0)
    np.testing.assert_allclose(found / found[2], free / free[2] * np.exp(-repeats + repeats[2]))
    assert found[2] > 1.5 * free[2]


def test_filtered_scores_wait_for_second_moments():
    scheduler = filtered_dga(score="adam", without_moments="raw")
    raw = in_training([1.0, 0.0, 0.0], step=1)
    skipped = after(scheduler, raw)
    assert (skipped.num_updates, skipped.num_skipped) == (0, 1)
    state = after(scheduler, raw, replace(raw, preconditioned=True))
    assert (state.num_updates, state.num_skipped) == (1, 1)


@pytest.mark.parametrize(
    "limit",
    [
        {"budget": EpochBudget(4.0, np.full(3, 0.1), total_steps=30)},
        {"discount": RepeatDiscount(1.0, np.full(3, 0.1), total_steps=30)},
    ],
)
def test_limits_of_repetition_need_the_epochs(limit):
    scheduler = filtered_dga(**limit)
    with pytest.raises(ValueError, match="expected step and epochs, for repetition, found none"):
        after(scheduler, measured([1.0, 0.0, 0.0]))


def test_a_step_size_by_spread_does_not_go_with_filtered_scores():
    with pytest.raises(ValueError, match="step_size: expected a number if filtered"):
        Dga(np.array([1.0]), step_size=AutoStep(spread=0.3), filtered=True)
