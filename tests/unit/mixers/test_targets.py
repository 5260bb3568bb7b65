"""Several targets for a rule that aligns to one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.base import Alignments, TargetAlignments, TargetNeeds
from megadga.mixers.basis import OverBasis, rule_state
from megadga.mixers.dga import Dga
from megadga.mixers.grape import Grape, task_weights
from megadga.mixers.odm import Odm
from megadga.mixers.static import uniform_weights
from megadga.mixers.targets import OverTargets
from tests.support.mixtures import identity, mixtures_of
from tests.support.schedulers import Remembering

LN2 = math.log(2)
HALF = np.array([0.5, 0.5])


def measured(dots, losses=(1.0, 1.0), **more) -> TargetAlignments:
    squares = np.ones(len(dots))
    return TargetAlignments(np.array(dots, np.float64), np.array(losses), squares, **more)


def after(rule, *observed):
    state = rule.init()
    for each in observed:
        state = rule.update(state, each)
    return state


def test_a_sum_goes_by_importance():
    # z = (3/4, 1/4): combined scores ln 2 * (3, 1), exp of them (8, 2).
    rule = OverTargets(Dga(HALF, step_size=1.0), np.array([3.0, 1.0]))
    state = after(rule, measured([[4 * LN2, 0], [0, 4 * LN2]]))

    np.testing.assert_allclose(task_weights(state), [0.75, 0.25], rtol=1e-15)
    np.testing.assert_allclose(state.weights, [0.8, 0.2], rtol=1e-12)


def test_the_worst_is_the_target_whose_loss_falls_least_as_a_share_of_itself():
    # Rates (4/2 * 1/2, 3/4 * 1/2) = (1, 3/8): the second. exp(ln 2 * (0, 3)) = (1, 8).
    rule = OverTargets(Dga(HALF, step_size=LN2), np.ones(2), "worst")
    state = after(rule, measured([[4, 0], [0, 3]], losses=(2.0, 4.0)))

    np.testing.assert_array_equal(task_weights(state), [0, 1])
    np.testing.assert_allclose(state.weights, [1 / 9, 8 / 9], rtol=1e-12)
    # Now rates are (2 * 1/9, 3/4 * 8/9) = (2/9, 2/3): the first. (1, 8) times (2^4, 1).
    state = rule.update(state, measured([[4, 0], [0, 3]], losses=(2.0, 4.0)))
    np.testing.assert_array_equal(task_weights(state), [1, 0])
    np.testing.assert_allclose(state.weights, [2 / 3, 1 / 3], rtol=1e-12)


@pytest.mark.parametrize(
    ("dots", "importance", "worst"),
    [
        ([[2, 2], [3, 3]], [1, 1], 0),
        ([[2, 2], [3, 3]], [1, 2], 1),  # 3 is less than twice 2
        ([[-1, -1], [-1, -1]], [1, 2], 1),  # the same harm to what counts twice
        ([[-1, -1], [3, 3]], [1, 9], 0),  # no importance makes gain worse than harm
        ([[2, 2], [2, 2]], [1, 1], 0),  # of equals the first
    ],
)
def test_the_important_counts_as_worse_off_sooner(dots, importance, worst):
    rule = OverTargets(Dga(HALF, step_size=1.0), np.array(importance, np.float64), "worst")
    np.testing.assert_array_equal(task_weights(after(rule, measured(dots))), np.eye(2)[worst])


def test_the_worst_is_what_grape_without_memory_tends_to():
    grape = Grape(HALF, HALF, step_size=0.3, task_step_size=1e4, task_smoothing=0.0)
    worst = OverTargets(Dga(HALF, step_size=0.3), np.ones(2), "worst")
    observed = measured([[4, 1], [2, 2.5]])

    np.testing.assert_allclose(
        after(grape, observed).weights, after(worst, observed).weights, rtol=1e-12
    )


@given(
    dots=st.lists(arrays(np.float64, (1, 4), elements=st.floats(-50, 50)), min_size=1, max_size=4),
    combine=st.sampled_from(["sum", "worst"]),
    score=st.sampled_from(["raw", "cosine", "clipped"]),
)
def test_one_target_is_the_rule_itself(dots, combine, score):
    rule = Dga(np.array([0.1, 0.2, 0.3, 0.4]), step_size=0.7, ema=0.3, floor=0.05)
    squares = np.array([4.0, 0.5, 9.0, 1.0])
    over = OverTargets(rule, np.array([0.3]), combine, score)
    several = [TargetAlignments(d, np.array([2.0]), np.array([2.25]), squares) for d in dots]
    plain = after(replace(rule, score=score), *(Alignments(d[0], 2.25, squares) for d in dots))

    np.testing.assert_array_equal(after(over, *several).averaged_weights, plain.averaged_weights)


def test_scores_are_taken_before_targets_are_combined():
    # Cosines (1/2, 0) and (0, 1), whatever the lengths; their mean (1/4, 1/2).
    observed = TargetAlignments(
        np.array([[5.0, 0.0], [0.0, 0.2]]), np.ones(2), np.array([25.0, 0.01]), np.array([4.0, 4])
    )
    rule = OverTargets(Dga(HALF, step_size=4 * LN2), np.ones(2), score="cosine")

    np.testing.assert_allclose(after(rule, observed).weights, [1 / 3, 2 / 3], rtol=1e-12)


@given(dots=arrays(np.float64, (2, 5), elements=st.floats(-50, 50)), data=st.data())
def test_renaming_domains_renames_the_weights_of_the_worst_too(dots, data):
    initial = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
    rates = dots @ initial
    assume(abs(rates[0] - rates[1]) > 1e-9)  # rounding must not decide
    order = np.array(data.draw(st.permutations(range(5))))
    weights, renamed = (
        after(
            OverTargets(Dga(initial[at], step_size=0.3), np.ones(2), "worst"),
            measured(dots[:, at]),
        ).weights
        for at in (np.arange(5), order)
    )
    np.testing.assert_allclose(renamed, weights[order], rtol=1e-12)


def test_over_a_basis_targets_are_compared_by_the_weights_of_its_rows():
    rows = mixtures_of([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    inner = OverTargets(Dga(np.array([0.75, 0.25]), step_size=LN2), np.ones(2), "worst")
    over = OverBasis(inner, rows)
    assert over.observes == TargetNeeds(2, mixtures=rows)
    # Rates (4/4, 2 * 3/4) = (1, 3/2): the first, w = (3, 1 * 2^4) / 19.
    state = after(over, measured([[0, 4], [2, 0]]))

    np.testing.assert_array_equal(task_weights(rule_state(state)), [1, 0])
    w = np.array([3, 16]) / 19
    np.testing.assert_allclose(
        state.weights, [w[0] / 2, w[0] / 2 + w[1] / 4, w[1] * 3 / 4], rtol=1e-12
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
def test_a_target_loss_without_a_share_leaves_the_update_out(loss):
    state = after(OverTargets(Dga(HALF, 1.0), np.ones(2)), measured([[1, 0], [0, 1]], (1, loss)))
    np.testing.assert_array_equal(state.weights, HALF)
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_what_the_rule_leaves_out_leaves_the_targets_as_they_were():
    rule = OverTargets(Dga(HALF, 1.0, warmup=1), np.ones(2), "worst")
    first = after(rule, measured([[1, 1], [0, 0]]))
    second = rule.update(first, measured([[1, 1], [0, 0]]))

    assert (first.num_skipped, second.num_updates) == (1, 1)
    np.testing.assert_array_equal(task_weights(first), HALF)
    np.testing.assert_array_equal(task_weights(second), [0, 1])


def test_what_the_rule_remembers_reaches_it_again():
    state = after(OverTargets(Remembering(2), np.ones(2)), *[measured([[2, 4], [0, 0]])] * 3)
    np.testing.assert_array_equal(state.memory["inner_sum"], [3.0, 6.0])


@pytest.mark.parametrize(
    ("score", "needs"),
    [
        ("raw", TargetNeeds(3)),
        ("cosine", TargetNeeds(3, norms=True)),
        ("adam", TargetNeeds(3, preconditioned=True)),
    ],
)
def test_it_observes_what_the_score_needs(score, needs):
    assert OverTargets(Dga(HALF, 1.0), np.ones(3), score=score).observes == needs


def test_another_number_of_targets_is_refused():
    rule = OverTargets(Dga(HALF, 1.0), np.ones(3))
    with pytest.raises(ValueError, match=r"target losses: expected shape \(3,\), found \(2,\)"):
        after(rule, measured([[1, 0], [0, 1]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"combine": "mean"}, "combine: expected sum or worst, found 'mean'"),
        ({"score": "sine"}, "score: expected one of raw, cosine, clipped, adam, found 'sine'"),
        ({"importance": np.array([1.0, 0.0])}, r"importance: expected finite .* \[1.0, 0.0\]"),
        ({"importance": np.array([])}, r"importance: expected finite numbers > 0, found \[\]"),
        ({"rule": Odm(HALF)}, "rule: expected one that observes inner products, found LossN"),
        ({"rule": Dga(HALF, 1.0, score="cosine")}, "rule: expected one that observes inner pro"),
        (
            {"rule": OverBasis(Dga(uniform_weights(2), 1.0), identity(2))},
            "rule: expected one that observes inner products, found AlignmentNeeds",
        ),
    ],
)
def test_wrong_values_are_refused(change, message):
    right = {"rule": Dga(HALF, 1.0), "importance": np.ones(2)}
    with pytest.raises(ValueError, match=message):
        OverTargets(**right | change)
