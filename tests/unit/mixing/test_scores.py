import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixing.scheduler import Alignments
from megadga.mixing.scores import SCORES, clipped, cosine, raw

gradients = arrays(
    np.float64, st.tuples(st.integers(2, 8), st.integers(1, 6)), elements=st.floats(-1e3, 1e3)
)


def of_gradients(domains, specific) -> Alignments:
    return Alignments(domains @ specific, (domains**2).sum(axis=1), float(specific @ specific))


def test_raw_is_the_dot_product_itself():
    alignments = Alignments(np.array([3.0, -4.0]), np.array([9.0, 16.0]), 25.0)
    np.testing.assert_array_equal(raw(alignments), [3.0, -4.0])


def test_cosine_divides_by_both_norms():
    alignments = Alignments(np.array([3.0, -4.0]), np.array([9.0, 16.0]), 25.0)
    np.testing.assert_allclose(cosine(alignments), [3 / (3 * 5), -4 / (4 * 5)], rtol=1e-15)


def test_a_gradient_of_zero_has_cosine_zero():
    alignments = Alignments(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 1.0)
    np.testing.assert_array_equal(cosine(alignments), [0.0, 1.0])
    np.testing.assert_array_equal(cosine(Alignments(np.zeros(2), np.ones(2), 0.0)), [0.0, 0.0])


def test_clipped_scales_only_gradients_longer_than_one():
    # |g| = (4, 1/2): the first is divided by 4, the second left; |v| = 1/5 is left.
    alignments = Alignments(np.array([0.4, 0.05]), np.array([16.0, 0.25]), 0.04)
    np.testing.assert_allclose(clipped(alignments), [0.1, 0.05], rtol=1e-15)


@given(stack=gradients)
def test_clipped_is_the_dot_product_of_clipped_gradients(stack):
    norms = np.linalg.norm(stack, axis=1, keepdims=True)
    scaled = stack / np.maximum(norms, 1.0)
    found = clipped(of_gradients(stack[:-1], stack[-1]))
    np.testing.assert_allclose(found, scaled[:-1] @ scaled[-1], atol=1e-12)


@given(stack=gradients)
def test_cosine_is_bounded_by_one(stack):
    found = cosine(of_gradients(stack[:-1], stack[-1]))
    assert (np.abs(found) <= 1.0).all()


def test_cosine_of_gradients_whose_squares_lose_digits_is_bounded_too():
    tiny = np.array([[1.0], [7.73840182e-161]])
    assert cosine(of_gradients(tiny[:-1], tiny[-1])) == 1.0


@pytest.mark.parametrize("score", SCORES.values())
def test_norms_near_the_end_of_the_range_do_not_overflow(score):
    huge = Alignments(np.array([1e308, -1e308]), np.array([1e308, 1e308]), 1e308)
    assert np.isfinite(score(huge)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_is_finite_looks_at_every_number(value):
    assert Alignments(np.zeros(2), np.zeros(2), 0.0).is_finite()
    assert not Alignments(np.array([0.0, value]), np.zeros(2), 0.0).is_finite()
    assert not Alignments(np.zeros(2), np.array([value, 0.0]), 0.0).is_finite()
    assert not Alignments(np.zeros(2), np.zeros(2), value).is_finite()


def test_alignments_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(K,\), found \(2,\) and \(3,\)"):
        Alignments(np.zeros(2), np.zeros(3), 0.0)
