import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.laws.assessing import cross_validate, interval, rank_correlation, resample
from megadga.laws.observations import Observations
from megadga.laws.regression import LinearLaw, fit_linear

SETS = ("specific=qa", "domain=a", "domain=b")


def observed(number: int, noise: float = 0.0) -> Observations:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(2), number)
    losses = weights @ np.array([[3.0, 2.0, 4.0], [4.0, 4.0, 2.0]])
    losses = losses + rng.normal(0.0, noise, losses.shape)
    names = tuple(f"m{index}" for index in range(number))
    return Observations(names, ("a", "b"), SETS, weights, losses)


def test_held_out_mixtures_of_an_exact_law_have_no_error():
    found = cross_validate(observed(8), fit_linear, folds=4, seed=0)
    assert [each.set for each in found] == ["general", *SETS]
    for each in found:
        assert each.mean_absolute_error == pytest.approx(0.0, abs=1e-12)
    # The domains' losses are each other's mirror image: their mean is 3 everywhere.
    assert [round(each.rank_correlation, 6) for each in found[1:]] == [1.0, 1.0, 1.0]


def test_no_run_is_predicted_by_a_law_that_has_seen_its_mixture():
    once = observed(6)
    both = once.of(np.array([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]))

    def remember(weights: FloatArray, losses: FloatArray) -> LinearLaw:
        seen = {tuple(each) for each in weights.tolist()}
        assert len(weights) == 2 * len(seen)  # both runs of a mixture, or none
        return fit_linear(weights, losses)

    cross_validate(both, remember, folds=3, seed=0)


def test_the_error_of_the_mean_is_beside_that_of_the_law():
    weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    two = Observations(("m0", "m1"), ("a", "b"), ("domain=a",), weights, np.array([[1.0], [3.0]]))
    found = cross_validate(two, fit_linear, folds=8, seed=0)
    # Each is predicted by the other: 2 nats off.
    assert [each.constant_error for each in found] == [2.0, 2.0]


def test_laws_of_resampled_runs_spread_as_the_noise_does():
    laws = resample(observed(40, noise=0.1), fit_linear, replicates=200, seed=0)
    at = np.array([[0.5, 0.5]])
    low, high = interval(np.stack([law.predict(at)[0] for law in laws]))
    # A mean of 40 runs is known up to 0.1 / sqrt(40) = 0.016: 90 % are in 2 x 1.64 x 0.016.
    assert (high - low) == pytest.approx(0.052, abs=0.025)


def test_without_noise_all_of_them_agree():
    laws = resample(observed(12), fit_linear, replicates=3, seed=0)
    assert np.ptp([law.predict(np.array([[0.3, 0.7]])) for law in laws], axis=0).max() < 1e-12


def test_ranks_are_compared_whatever_the_values_are():
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 50.0, 51.0])) == 1.0
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.ones(3)) == 0.0


def test_the_interval_of_a_rank_correlation_is_wide_for_few_mixtures_and_narrow_for_many():
    widths: list[float] = []
    for number in (8, 80):
        general, *sets = cross_validate(observed(number, noise=0.3), fit_linear, folds=8, seed=0)
        for each in (general, *sets):
            low, high = each.rank_interval
            assert -1.0 <= low <= each.rank_correlation <= high <= 1.0
        widths.append(sets[0].rank_interval[1] - sets[0].rank_interval[0])
    assert widths[1] < 0.5 * widths[0]


def test_runs_of_one_mixture_tell_the_noise_that_no_law_can_predict():
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    losses = np.array([[1.0], [1.2], [3.0], [3.4], [2.0]])
    several = Observations(tuple("abcde"), ("a", "b"), ("specific=qa",), weights, losses)
    (found,) = cross_validate(several, fit_linear, folds=3, seed=0)
    # Deviations of 0.1, 0.1, 0.2, 0.2 from two means, with two degrees of freedom.
    assert found.noise == pytest.approx(0.05**0.5, rel=1e-12)
    (once,) = cross_validate(several.of(np.array([0, 2, 4])), fit_linear, folds=3, seed=0)
    assert once.noise is None
