import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.mixers.safeguards import signal_to_noise

INF = math.inf


def signal(scores, errors) -> float:
    return signal_to_noise(np.array(scores, np.float64), np.array(errors, np.float64))


@st.composite
def measurements(draw):
    """Scores and errors of a few domains, neither so small that their squares lose digits."""
    num_domains = draw(st.integers(2, 12))
    scores = draw(arrays(np.float64, num_domains, elements=st.integers(-99, 99).map(float)))
    errors = draw(arrays(np.float64, num_domains, elements=st.integers(1, 99).map(float)))
    return scores, errors


@pytest.mark.parametrize(
    ("scores", "errors", "expected"),
    [
        ([0, 2], [1, 1], 1.0),  # variance 2, noise 1: sqrt(1 / 1)
        ([0, 2, 4], [1, 1, 1], math.sqrt(3)),  # variance 4
        ([0, 0, 6], [1, 2, 1], math.sqrt((12 - 2) / 2)),  # variances 1, 4, 1 of the errors: 2
        ([0, 2], [2, 2], 0.0),  # variance 2, noise 4
    ],
)
def test_it_is_the_excess_over_the_noise_as_worked_out_by_hand(scores, errors, expected):
    assert signal(scores, errors) == pytest.approx(expected, rel=1e-14)


def test_a_single_domain_has_no_differences():
    assert signal([3], [0.1]) == 0.0
    assert signal([3], [0]) == 0.0


def test_without_noise_any_difference_is_infinitely_clear():
    assert signal([1, 1 + 1e-15], [0, 0]) == INF
    assert signal([0.1, 0.1, 0.1], [0, 0, 0]) == 0.0


def test_a_domain_of_which_nothing_is_known_drowns_everything():
    assert signal([0, 1e300], [0, INF]) == 0.0
    assert signal([0, 0], [INF, INF]) == 0.0


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e307])
def test_it_has_no_unit(unit):
    # Three roundings of each number at most.
    assert signal([0, 2 * unit], [unit, unit]) == pytest.approx(1.0, rel=1e-14)


def test_a_noise_that_is_tiny_beside_the_scores_does_not_overflow():
    assert signal([-1e308, 1e308], [1.0, 1.0]) == pytest.approx(math.sqrt(2) * 1e308, rel=1e-14)
    assert signal([-1e308, 1e308], [1e-10, 1e-10]) == INF  # beyond the largest number


@given(measured=measurements(), shift=st.integers(-99, 99))
def test_what_all_scores_have_in_common_is_no_signal(measured, shift):
    scores, errors = measured
    found = signal_to_noise(scores + shift, errors)
    # Integers shift exactly; the root enlarges roundings where scores hardly exceed the noise.
    assert found == pytest.approx(signal_to_noise(scores, errors), rel=1e-9, abs=1e-6)


@given(measured=measurements(), data=st.data())
def test_the_order_of_the_domains_does_not_matter(measured, data):
    scores, errors = measured
    order = np.array(data.draw(st.permutations(range(scores.size))))
    found = signal_to_noise(scores[order], errors[order])
    assert found == pytest.approx(signal_to_noise(scores, errors), rel=1e-9, abs=1e-6)


@given(measured=measurements(), factor=st.floats(1.0, 10.0))
def test_more_noise_never_makes_a_clearer_signal(measured, factor):
    scores, errors = measured
    assert signal_to_noise(scores, factor * errors) <= signal_to_noise(scores, errors) + 1e-6


def test_it_estimates_the_ratio_that_measurements_were_made_with():
    random = np.random.default_rng(0)
    errors = random.uniform(0.5, 1.5, 100_000)
    noise = math.sqrt(np.mean(errors**2))
    scores = random.normal(0.0, 2.0, errors.size) + random.normal(0.0, errors)
    # The ratio of two variances over n domains is known to about sqrt(2 / n) = 0.45 %.
    assert signal_to_noise(scores, errors) == pytest.approx(2.0 / noise, rel=0.015)


def test_scores_and_errors_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"standard_errors: expected shape \(2,\), found \(1,\)"):
        signal([0, 1], [1])
