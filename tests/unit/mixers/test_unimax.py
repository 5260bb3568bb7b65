import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.mixers.static import unimax_weights


def test_small_domains_are_capped_and_the_others_share_what_is_left():
    # Budget 100, 2 epochs. Equal shares of 100: 25 each; the smallest may have 2 * 5 = 10.
    # Of the other 90, 30 each; 2 * 10 = 20 is the cap of the next. Of the other 70, 35 each.
    found = unimax_weights(np.array([1000, 5, 10, 50]), budget=100, max_epochs=2)
    np.testing.assert_allclose(found, [0.35, 0.10, 0.20, 0.35], rtol=1e-15)


def test_a_small_budget_is_shared_evenly():
    found = unimax_weights(np.array([7, 5, 9]), budget=6, max_epochs=1)
    np.testing.assert_allclose(found, [1 / 3] * 3, rtol=1e-15)


def test_a_budget_above_all_caps_is_shared_by_size():
    found = unimax_weights(np.array([10, 0, 30]), budget=1e6, max_epochs=4)
    np.testing.assert_allclose(found, [0.25, 0.0, 0.75], rtol=1e-15)


@given(
    tokens=st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any),
    budget=st.floats(1.0, 1e13),
    max_epochs=st.floats(0.1, 10.0),
)
def test_it_hands_out_as_the_papers_loop_over_ascending_sizes_does(tokens, budget, max_epochs):
    left, handed_out = budget, np.zeros(len(tokens))
    for rank, index in enumerate(np.argsort(tokens)):
        share = min(left / (len(tokens) - rank), tokens[index] * max_epochs)
        handed_out[index], left = share, left - share
    found = unimax_weights(np.array(tokens), budget=budget, max_epochs=max_epochs)
    np.testing.assert_allclose(found, handed_out / handed_out.sum(), rtol=1e-9, atol=1e-15)


def test_262_144_domains_are_no_trouble():
    tokens = np.arange(262_144)
    found = unimax_weights(tokens, budget=1e9, max_epochs=1)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)
    assert (found * 1e9 <= tokens * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0.0}, "budget: expected a finite number > 0, found 0.0"),
        ({"max_epochs": math.inf}, "max_epochs: expected a finite number > 0, found inf"),
        ({"tokens": np.array([0, 0])}, "tokens: expected shape"),
        ({"tokens": np.array([3, -1])}, "tokens: expected counts >= 0, found -1 at index 1"),
    ],
)
def test_wrong_values_are_refused(change, message):
    right = {"tokens": np.array([1, 2]), "budget": 1.0, "max_epochs": 1.0}
    with pytest.raises(ValueError, match=message):
        unimax_weights(**right | change)
