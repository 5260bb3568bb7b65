import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.simplex import (
    exponentiated_step,
    geometric_mixture,
    project_to_caps,
    project_to_floor,
)


def mixtures(max_domains: int = 12):
    masses = arrays(np.float64, st.integers(1, max_domains), elements=st.floats(0.0, 1.0))
    return masses.filter(lambda mass: mass.sum() > 1e-3).map(lambda mass: mass / mass.sum())


@given(weights=mixtures(), data=st.data(), step_size=st.floats(1e-3, 10.0))
def test_a_step_multiplies_the_ratios_of_weights(weights, data, step_size):
    scores = data.draw(arrays(np.float64, weights.size, elements=st.floats(-10, 10)))
    naive = weights * np.exp(step_size * scores)
    np.testing.assert_allclose(
        exponentiated_step(weights, scores, step_size), naive / naive.sum(), rtol=1e-9, atol=1e-300
    )


@given(weights=mixtures(), shift=st.floats(-1e6, 1e6))
def test_what_all_scores_share_moves_nothing(weights, shift):
    stepped = exponentiated_step(weights, np.full(weights.size, shift), 0.5)
    np.testing.assert_allclose(stepped, weights, rtol=1e-12, atol=1e-300)


def test_a_geometric_mixture_goes_from_the_weights_to_the_prior():
    weights, prior = np.array([0.2, 0.8]), np.array([0.6, 0.4])
    np.testing.assert_allclose(geometric_mixture(weights, prior, 0.0), weights, rtol=1e-14)
    np.testing.assert_allclose(geometric_mixture(weights, prior, 1.0), prior, rtol=1e-14)


@given(weights=mixtures(), share=st.floats(0.0, 1.0))
def test_the_floored_mixture_is_nearest_in_kl(weights, share):
    # By convexity these conditions (Karush-Kuhn-Tucker) are sufficient: it is feasible, domains
    # above the floor keep one common ratio to what they had, and none on the floor had more.
    floor = share / weights.size
    floored = project_to_floor(weights, floor)
    assert (floored >= floor).all()
    assert floored.sum() == pytest.approx(1.0, abs=1e-12)
    above = floored > floor
    if above.any():
        ratios = floored[above] / weights[above]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
        assert (weights[~above] * ratios[0] <= floor * (1 + 1e-9)).all()


def test_domains_fall_to_the_floor_one_after_the_other():
    # Lifting the first to 0.1 leaves 0.9 for 0.1 : 0.85, which puts the second at 0.0947: below.
    floored = project_to_floor(np.array([0.05, 0.10, 0.85]), 0.1)
    np.testing.assert_allclose(floored, [0.1, 0.1, 0.8], rtol=1e-15)


@pytest.mark.parametrize("num_domains", [1, 3, 7, 10, 1000])
def test_the_highest_floor_there_is_makes_all_equal(num_domains):
    weights = np.zeros(num_domains)
    weights[0] = 1.0
    floored = project_to_floor(weights, 1.0 / num_domains)
    np.testing.assert_allclose(floored, 1.0 / num_domains, rtol=1e-12)


@given(weights=mixtures())
def test_no_floor_changes_nothing(weights):
    assert project_to_floor(weights, 0.0) is weights


@given(weights=mixtures(), data=st.data())
def test_the_capped_mixture_is_nearest_in_kl(weights, data):
    # As of the floor: feasible, those below their cap keep one common ratio to what they had, and
    # none at its cap would have more by it.
    caps = data.draw(arrays(np.float64, weights.size, elements=st.floats(1e-3, 1.0)))
    assume(caps[weights > 0.0].sum() > 1.0)
    assume(weights[weights > 0.0].min() > 1e-200)  # ratios to denormal numbers overflow
    found = project_to_caps(weights, caps)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (found <= caps * (1.0 + 1e-9)).all()
    assert (found[weights == 0.0] == 0.0).all()
    free = (weights > 0.0) & (found < caps * (1.0 - 1e-9))
    if free.any():
        ratios = found[free] / weights[free]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
        held = (weights > 0.0) & ~free
        assert (caps[held] <= weights[held] * ratios[0] * (1.0 + 1e-6)).all()


def test_weights_within_their_caps_are_themselves():
    weights = np.array([0.25, 0.75, 0.0])
    assert project_to_caps(weights, np.array([0.25, 0.8, 0.0])) is weights


def test_caps_that_leave_too_little_are_the_mixture():
    found = project_to_caps(np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.3, 0.9]))
    np.testing.assert_allclose(found, [0.25, 0.75, 0.0])
