import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.mixers.base import DomainLosses, LossNeeds
from megadga.mixers.by_hand import continue_from
from megadga.mixers.gradient_norm import (
    GradientNorm,
    GradientNormOptions,
    Resample,
    make_gradient_norm,
)
from megadga.mixers.rule import RuleContext
from tests.unit.mixers.test_every_scheduler import RULES, runs, states


def norms(values, *, counts=None) -> DomainLosses:
    counts = np.ones(len(values), np.int64) if counts is None else np.array(counts)
    found = np.array(values, dtype=np.float64)
    return DomainLosses(np.ones(len(values)), counts, 1, output_norms=found)


def test_two_updates_equal_the_values_worked_out_by_hand():
    # b = (1/2, 1/4, 1/4), momentum 1/2, base_share 1/5.
    rule = GradientNorm(np.array([0.5, 0.25, 0.25]), momentum=0.5, base_share=0.2)

    # The third is not drawn: n = (0.4, 1.2, 0.8), the mean of the others.
    # b n = (0.2, 0.3, 0.2), of sum 0.7. w = 4/5 (2/7, 3/7, 2/7) + 1/5 b.
    state = rule.update(rule.init(), norms([0.4, 1.2, 0.0], counts=[3, 1, 0]))
    expected = 0.8 * np.array([2, 3, 2]) / 7 + 0.2 * np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(state.weights, expected, rtol=1e-14)
    np.testing.assert_array_equal(state.weights, state.averaged_weights)

    # Only the first and third are: of the first (1/2 0.2 + 1/2 1.0) / (1/2 1/2 + 1/2) = 0.8,
    # as its sum was 1/2 0.4 = 0.2, and the third begins at 0.3. b n = (0.4, 0.3, 0.075).
    state = rule.update(state, norms([1.0, 0.0, 0.3], counts=[1, 0, 1]))
    expected = 0.8 * np.array([0.4, 0.3, 0.075]) / 0.775 + 0.2 * np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(state.weights, expected, rtol=1e-14)
    assert (state.num_updates, state.num_skipped) == (2, 0)


def test_equal_norms_leave_the_base_mixture_and_a_weight_of_0_stays():
    rule = GradientNorm(np.array([0.7, 0.3, 0.0]))
    state = rule.update(rule.init(), norms([0.9, 0.9, 0.9]))
    np.testing.assert_allclose(state.weights, [0.7, 0.3, 0.0], rtol=1e-15)
    assert rule.update(state, norms([0.1, 0.9, 0.9])).weights[2] == 0.0


def test_norms_of_0_leave_the_weights():
    rule = GradientNorm(np.array([0.7, 0.3]))
    np.testing.assert_array_equal(rule.update(rule.init(), norms([0, 0])).weights, [0.7, 0.3])


def test_no_domain_falls_below_its_share_of_the_base_mixture():
    rule = GradientNorm(np.array([0.9, 0.1]), base_share=0.25)
    weights = rule.update(rule.init(), norms([0.0, 1.4])).weights
    np.testing.assert_allclose(weights, [0.225, 0.775], rtol=1e-14)


@pytest.mark.parametrize("wrong", [[np.nan, 1.0], [np.inf, 1.0]])
def test_a_norm_that_is_not_finite_is_counted_and_left_out(wrong):
    rule = GradientNorm(np.array([0.5, 0.5]))
    state = rule.update(rule.init(), norms(wrong))
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_a_negative_norm_is_refused():
    with pytest.raises(ValueError, match=r"expected norms of at least 0, found -0.5"):
        norms([0.1, -0.5])


@given(run=runs(values=st.floats(0.01, 1.4)), data=st.data())
def test_the_rule_goes_on_from_weights_that_were_set_by_hand(run, data):
    initial, blocks = run
    state = states(RULES["gradient_norm"], initial, blocks)[-1]
    masses = data.draw(st.lists(st.floats(0.0, 1.0), min_size=initial.size, max_size=initial.size))
    wanted = np.array(masses) + 1e-3
    wanted /= wanted.sum()
    rule = GradientNorm(initial)

    moved = continue_from(rule, state, wanted)

    np.testing.assert_array_equal(moved.averaged_weights, wanted)
    sums, masses = state.memory["norm_sums"], state.memory["norm_masses"]
    means = np.divide(sums, masses, where=masses > 0, out=np.ones(initial.size))
    # The same norms again leave the means, and so the weights, where they are.
    again = rule.update(moved, norms(means, counts=(masses > 0).astype(np.int64)))
    np.testing.assert_allclose(again.weights, wanted, rtol=1e-9)


def test_it_observes_norms_and_its_section_says_how_windows_are_drawn_again():
    names, tokens = ("a", "b"), np.ones(2, dtype=np.int64)
    context = RuleContext(names, tokens, 100, lambda key, rule: np.array([0.5, 0.5]))
    plain = GradientNormOptions(type="gradient_norm")
    again = GradientNormOptions(type="gradient_norm", resample=Resample(uniform_share=0.5))

    rule = make_gradient_norm(plain, context)
    assert rule.observes == LossNeeds(output_norms=True)
    assert (rule.momentum, rule.base_share) == (0.9, 0.1)
    assert (plain.resampled_uniformly, again.resampled_uniformly) == (None, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, found 1.0"),
        ({"base_share": 0.0}, "base_share: expected 0 < base_share <= 1, found 0.0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientNorm(np.array([0.5, 0.5]), **options)
