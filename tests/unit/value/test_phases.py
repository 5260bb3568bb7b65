"""Values by domain and phase, and schedules of them, against numbers by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.value.phases import PhaseValues, scheduled_weights, values_by_phase
from megadga.value.recursion import SequenceValues


def sequences(values, domains):
    values, domains = np.array(values), np.array(domains)
    return SequenceValues(values, domains, np.zeros_like(domains), values, ())


FOUND = sequences(
    [[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [4.0, 0.0]], [[0, 0], [0, 1], [1, 1], [0, 1]]
)


def test_values_of_a_domain_are_summed_over_the_steps_of_each_phase():
    phases = values_by_phase(FOUND, num_phases=2, num_domains=3)

    assert phases.begins.tolist() == [0, 2]
    assert phases.totals.tolist() == [[6.0, -1.0, 0.0], [4.0, 0.75, 0.0]]
    assert phases.counts.tolist() == [[3, 1, 0], [1, 3, 0]]
    np.testing.assert_array_equal(phases.means, [[2.0, -1.0, np.nan], [4.0, 0.25, np.nan]])
    # The deviation of 1, 2, 3 is 1; that of 0.5, 0.25, 0 is 0.25.
    root = np.sqrt(3.0)
    expected = [[1.0 / root, np.nan, np.nan], [np.nan, 0.25 / root, np.nan]]
    np.testing.assert_allclose(phases.errors, expected)


def test_phases_of_steps_that_do_not_divide_are_as_equal_as_they_can_be():
    found = sequences(np.ones((7, 1)), np.zeros((7, 1), dtype=np.int64))
    phases = values_by_phase(found, num_phases=3, num_domains=1)
    assert phases.begins.tolist() == [0, 2, 5]
    assert phases.counts.ravel().tolist() == [2, 3, 2]


def test_more_phases_than_steps_are_an_error():
    with pytest.raises(ValueError, match="num_phases: expected 1 to 4, found 5"):
        values_by_phase(FOUND, num_phases=5, num_domains=2)


def test_a_schedule_moves_each_phase_from_its_mixture_along_its_mean_values():
    phases = values_by_phase(FOUND, num_phases=2, num_domains=3)

    found = scheduled_weights(phases, strength=0.5)

    # Means 2 and -1 at shares 3/4 and 1/4: average 1.25, deviation 0.75 sqrt(3).
    scaled = np.array([0.75, -2.25]) / (0.75 * np.sqrt(3.0))
    expected = np.array([0.75, 0.25]) * np.exp(0.5 * scaled)
    np.testing.assert_allclose(found[0, :2], expected / expected.sum(), rtol=1e-12)
    assert found[1, 0] > 0.25 > found[1, 2] == 0.0


@given(data=st.data(), size=st.integers(1, 6), strength=st.floats(0.0, 20.0))
def test_a_schedule_has_a_mixture_for_every_phase_and_none_of_what_was_not_drawn(
    data, size, strength
):
    counts = np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
    counts[data.draw(st.integers(0, size - 1))] += 1
    numbers = st.floats(-1e6, 1e6, allow_nan=False)
    totals = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))) * (counts > 0)
    begins, errors = np.zeros(1, dtype=np.int64), np.zeros((1, size))
    phases = PhaseValues(begins, totals[None], counts[None], errors)

    (found,) = scheduled_weights(phases, strength=strength)

    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0.0).all()
    assert (found[counts == 0] == 0.0).all()
    (unmoved,) = scheduled_weights(phases, strength=0.0)
    np.testing.assert_allclose(unmoved, counts / counts.sum(), rtol=1e-12)
