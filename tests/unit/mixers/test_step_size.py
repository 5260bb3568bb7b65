import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.scores import AutoStep


def test_exponents_spread_by_the_stated_number():
    # Scores 1, 2, 3 have standard deviation 1 over K - 1; ten times those have 10.
    assert AutoStep(spread=0.5).for_scores(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        0.5, rel=1e-15
    )
    assert AutoStep(spread=0.5).for_scores(np.array([10.0, 20.0, 30.0])) == pytest.approx(
        0.05, rel=1e-15
    )


@given(
    scores=arrays(np.float64, st.integers(2, 12), elements=st.integers(-99, 99).map(float)),
    spread=st.floats(1e-3, 10.0),
    scale=st.floats(1e-9, 1e9),
)
def test_the_scale_of_the_scores_does_not_matter(scores, spread, scale):
    eta = AutoStep(spread=spread).for_scores(scale * scores)
    if np.ptp(scores) == 0.0:
        assert eta == 0.0
    else:
        assert np.std(eta * scale * scores, ddof=1) == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("scores", [[3.0], [2.0, 2.0, 2.0], [0.0, 0.0]])
def test_scores_without_a_spread_do_not_move(scores):
    assert AutoStep(spread=1.0).for_scores(np.array(scores)) == 0.0


@given(scores=arrays(np.float64, 4, elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_it_is_finite_whatever_the_scores(scores):
    assert 0.0 <= AutoStep(spread=1.0).for_scores(scores) < math.inf


@pytest.mark.parametrize(
    ("spread", "message"),
    [
        (-0.1, "greater than 0"),
        (0.0, "greater than 0"),
        (math.inf, "finite number"),
        (math.nan, "finite number"),
    ],
)
def test_the_spread_must_be_a_number_above_zero(spread, message):
    with pytest.raises(ValueError, match=rf"spread\n.*{message}"):
        AutoStep(spread=spread)
