import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.mixers.base import Alignments, Scheduler
from megadga.mixers.static import (
    Static,
    proportional_weights,
    temperature_weights,
    uniform_weights,
)


def test_a_static_mixture_observes_nothing_and_never_moves():
    scheduler: Scheduler = Static(np.array([0.3, 0.7]))
    assert scheduler.observes is None
    before = scheduler.init()
    state = scheduler.update(before, Alignments(np.ones(2), 1.0))
    assert state is before
    np.testing.assert_array_equal(state.averaged_weights, [0.3, 0.7])
    np.testing.assert_array_equal(state.weights, [0.3, 0.7])


def test_static_weights_must_be_a_distribution():
    with pytest.raises(ValueError, match="weights: expected a sum of 1"):
        Static(np.array([0.3, 0.3]))


def test_uniform_weights_are_equal():
    np.testing.assert_array_equal(uniform_weights(4), [0.25] * 4)


def test_proportional_weights_are_shares_of_tokens():
    np.testing.assert_allclose(proportional_weights(np.array([1, 0, 3])), [0.25, 0, 0.75])


def test_a_temperature_takes_a_root_of_the_counts():
    # T = 2: square roots 1, 2, 3 of 6.
    found = temperature_weights(np.array([1, 4, 9]), 2.0)
    np.testing.assert_allclose(found, [1 / 6, 2 / 6, 3 / 6], rtol=1e-15)


@given(
    tokens=st.lists(st.integers(1, 2**62), min_size=1, max_size=20),
    temperature=st.floats(0.05, 1e6),
)
def test_a_temperature_gives_a_distribution_in_the_order_of_the_counts(tokens, temperature):
    weights = temperature_weights(np.array(tokens), temperature)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(weights[np.argsort(tokens)]) >= 0.0).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature: expected"):
        temperature_weights(np.array([1, 2]), temperature)


def test_counts_must_be_counts():
    with pytest.raises(ValueError, match=r"expected counts >= 0, found -1 at index 1"):
        proportional_weights(np.array([2, -1]))
    with pytest.raises(ValueError, match="one count > 0"):
        proportional_weights(np.array([0, 0]))
    with pytest.raises(ValueError, match="num_domains: expected at least 1"):
        uniform_weights(0)
