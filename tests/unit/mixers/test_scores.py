import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.scores import ADAM, CLIPPED, COSINE, RAW, SCORES

gradients = arrays(
    np.float64, st.tuples(st.integers(2, 8), st.integers(1, 6)), elements=st.floats(-1e3, 1e3)
)


def measured(dots, squared_norms=None, specific_squared_norm=1.0, errors=None) -> Alignments:
    return Alignments(
        np.array(dots, np.float64),
        specific_squared_norm,
        None if squared_norms is None else np.array(squared_norms, np.float64),
        None if errors is None else np.array(errors, np.float64),
    )


def of_gradients(domains, specific) -> Alignments:
    norms = (domains**2).sum(axis=1)
    return measured(domains @ specific, norms, float(specific @ specific))


def test_raw_is_the_dot_product_itself():
    np.testing.assert_array_equal(RAW.of(measured([3, -4])), [3, -4])


def test_adam_is_the_dot_product_along_the_preconditioned_direction():
    alignments = Alignments(np.array([3.0, -4.0]), 25.0, preconditioned=True)
    np.testing.assert_array_equal(ADAM.of(alignments), [3, -4])


def test_adam_is_raw_while_there_is_nothing_to_precondition_with():
    np.testing.assert_array_equal(ADAM.of(measured([3, -4])), [3, -4])


def test_cosine_divides_by_both_norms():
    alignments = measured([3, -4], [9, 16], 25.0)
    np.testing.assert_allclose(COSINE.of(alignments), [3 / (3 * 5), -4 / (4 * 5)], rtol=1e-15)


def test_a_gradient_of_zero_has_cosine_zero():
    np.testing.assert_array_equal(COSINE.of(measured([0, 1], [0, 1])), [0, 1])
    np.testing.assert_array_equal(COSINE.of(measured([0, 0], [1, 1], 0.0)), [0, 0])


def test_clipped_scales_only_gradients_longer_than_one():
    # |g| = (4, 1/2): the first is divided by 4, the second left; |v| = 1/5 is left.
    alignments = measured([0.4, 0.05], [16, 0.25], 0.04)
    np.testing.assert_allclose(CLIPPED.of(alignments), [0.1, 0.05], rtol=1e-15)


@given(stack=gradients)
def test_clipped_is_the_dot_product_of_clipped_gradients(stack):
    norms = np.linalg.norm(stack, axis=1, keepdims=True)
    scaled = stack / np.maximum(norms, 1.0)
    found = CLIPPED.of(of_gradients(stack[:-1], stack[-1]))
    np.testing.assert_allclose(found, scaled[:-1] @ scaled[-1], atol=1e-12)


@given(stack=gradients)
def test_cosine_is_bounded_by_one(stack):
    found = COSINE.of(of_gradients(stack[:-1], stack[-1]))
    assert (np.abs(found) <= 1.0).all()


def test_cosine_of_gradients_whose_squares_lose_digits_is_bounded_too():
    tiny = np.array([[1.0], [7.73840182e-161]])
    assert COSINE.of(of_gradients(tiny[:-1], tiny[-1])) == 1.0


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_norms_near_the_end_of_the_range_do_not_overflow(score):
    huge = measured([1e308, -1e308], [1e308, 1e308], 1e308)
    assert np.isfinite(score.of(huge)).all()


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (RAW, [0.6, 0.4]),
        (ADAM, [0.6, 0.4]),
        (COSINE, [0.6 / (3 * 5), 0.4 / (0.5 * 5)]),
        (CLIPPED, [0.6 / 3 / 5, 0.4 / 5]),
    ],
)
def test_standard_errors_are_scaled_as_the_inner_products_are(score, expected):
    alignments = measured([3, -0.2], [9, 0.25], 25.0, errors=[0.6, 0.4])
    np.testing.assert_allclose(score.standard_errors(alignments), expected, rtol=1e-15)


def test_standard_errors_of_a_cosine_are_not_cut_off_at_one():
    alignments = measured([0.5], [1], 1.0, errors=[3])
    np.testing.assert_array_equal(COSINE.standard_errors(alignments), [3])


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_without_standard_errors_a_score_has_none(score):
    assert score.standard_errors(measured([3], [9])) is None


def test_each_score_says_what_it_needs():
    assert RAW.needs == AlignmentNeeds()
    assert COSINE.needs == CLIPPED.needs == AlignmentNeeds(norms=True)
    assert ADAM.needs == AlignmentNeeds(preconditioned=True)


def test_alignments_that_lack_or_exceed_what_a_score_asked_for_are_our_own_mistake():
    with pytest.raises(AssertionError):
        COSINE.of(measured([3]))
    with pytest.raises(AssertionError):
        RAW.of(Alignments(np.array([3.0]), 25.0, preconditioned=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_is_finite_looks_at_every_number(value):
    assert measured([0, 0], [0, 0], 0.0, [0, 0]).is_finite()
    assert measured([0, 0]).is_finite()
    assert not measured([0, value], [0, 0], 0.0, [0, 0]).is_finite()
    assert not measured([0, 0], [value, 0], 0.0, [0, 0]).is_finite()
    assert not measured([0, 0], [0, 0], value, [0, 0]).is_finite()
    assert not measured([0, 0], [0, 0], 0.0, [0, value]).is_finite()


def test_alignments_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(K,\), found \(2,\), \(3,\)"):
        measured([0, 0], [0, 0, 0])
    with pytest.raises(ValueError, match=r"one shape \(K,\), found \(2,\), \(3,\)"):
        measured([0, 0], errors=[0, 0, 0])
