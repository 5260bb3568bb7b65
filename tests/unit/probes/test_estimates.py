import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megadga.probes.statistics import (
    Estimates,
    SampledAlignments,
    domain_alignments,
    unmeasured,
    updated_estimates,
)

INF = math.inf


def of(*sequences: tuple[int, float], num_domains: int = 3) -> SampledAlignments:
    """What some sequences of one target each say: domain and derivative."""
    domains, derivatives = zip(*sequences, strict=True)
    return domain_alignments(
        np.array(derivatives, np.float64),
        np.ones(len(domains), np.int64),
        np.array(domains, np.int64),
        num_domains,
    )


EVERY_DOMAIN_TWICE = of((0, 0), (0, 2), (1, 4), (1, 4), (2, 1), (2, 5))
"""Means 1, 4, 3 with standard errors 1, 0, 2."""


def errors(estimates: Estimates) -> list[float]:
    found = estimates.current_errors()
    assert found is not None
    return found.tolist()


def test_before_the_first_update_nothing_is_known():
    estimates = unmeasured(2)
    assert estimates.dots.tolist() == [0.0, 0.0]
    assert estimates.standard_errors.tolist() == [INF, INF]
    assert estimates.current_errors() is None


def test_the_first_update_measures_every_domain():
    estimates = updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE)
    assert estimates.dots.tolist() == [1.0, 4.0, 3.0]
    assert errors(estimates) == [1.0, 0.0, 2.0]
    assert estimates.ages.tolist() == [0, 0, 0]


def test_what_a_batch_does_not_hold_keeps_its_value_and_becomes_less_certain():
    estimates = updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE)
    for _ in range(3):
        estimates = updated_estimates(estimates, of((0, 5), (0, 7)))
    assert estimates.dots.tolist() == [6.0, 4.0, 3.0]
    assert estimates.ages.tolist() == [0, 3, 3]
    assert errors(estimates) == [1.0, 0.0, 2.0 * math.sqrt(1 + 3)]


def test_a_domain_that_is_measured_again_is_young_again():
    estimates = updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE)
    estimates = updated_estimates(estimates, of((0, 5), (0, 7)))
    estimates = updated_estimates(estimates, of((2, 5), (2, 7)))
    assert estimates.ages.tolist() == [1, 2, 0]
    assert estimates.dots.tolist() == [6.0, 4.0, 6.0]


def test_a_batch_with_no_domain_twice_takes_the_noise_of_a_sequence_from_before():
    estimates = updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE)
    estimates = updated_estimates(estimates, of((0, 9), (2, 8)))
    assert estimates.dots.tolist() == [9.0, 4.0, 8.0]
    np.testing.assert_allclose(errors(estimates), [1 * math.sqrt(2), 0, 2 * math.sqrt(2)])
    again = updated_estimates(estimates, of((0, 3)))  # on one sequence as before: not larger still
    np.testing.assert_allclose(again.standard_errors, estimates.standard_errors)


def test_one_sequence_a_domain_leaves_the_noise_unknown_until_a_batch_has_two():
    estimates = updated_estimates(unmeasured(3), of((0, 1), (1, 2), (2, 3)))
    assert estimates.dots.tolist() == [1.0, 2.0, 3.0]
    assert estimates.current_errors() is None
    estimates = updated_estimates(estimates, of((0, 1), (0, 3), (1, 2), (2, 3)))
    np.testing.assert_allclose(errors(estimates), [1, math.sqrt(2), math.sqrt(2)])


@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.floats(-9, 9)), min_size=1, max_size=5),
        max_size=6,
    )
)
def test_once_every_domain_was_measured_all_errors_stay_finite(batches):
    estimates = updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE)
    for batch in batches:
        estimates = updated_estimates(estimates, of(*batch))
        assert np.isfinite(errors(estimates)).all()


def test_a_checkpoint_holds_all_of_it_to_the_bit():
    estimates = updated_estimates(
        updated_estimates(unmeasured(3), EVERY_DOMAIN_TWICE), of((0, 1 / 3), (1, 0.1))
    )
    saved = estimates.state()
    loaded = Estimates.from_state(saved)
    for name, array in estimates.state().items():
        np.testing.assert_array_equal(loaded.state()[name], array, strict=True)
    saved["dots"][:] = 0.0
    assert estimates.dots.tolist() == [1 / 3, 0.1, 3.0]
