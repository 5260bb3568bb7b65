import numpy as np
import pytest

from megadga.laws.exponential import fit_exponential
from megadga.laws.power import PowerLaw, fit_power
from tests.support.laws import check_gradient, distance_after_noise, drawn_mixtures


def planted_law(num_domains: int, seed: int = 0) -> PowerLaw:
    """A law in which each domain does by far the most for its own set."""
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.2, 0.4, (num_domains, num_domains)) + 1.2 * np.eye(num_domains)
    floors = rng.uniform(1.5, 2.5, num_domains)
    return PowerLaw(floors, gains, rng.uniform(0.3, 0.8, num_domains))


def test_losses_are_those_of_the_formula():
    law = PowerLaw(
        floors=np.array([1.0, 2.0]),
        gains=np.array([[2.0, 4.0], [0.5, 3.0]]),
        exponents=np.array([0.5, 1.0]),
    )
    found = law.predict(np.array([[0.25, 0.75], [1.0, 0.0]]))
    # 1 + 1 / (2 sqrt(1/4) + 4 sqrt(3/4)), 2 + 1 / (0.5/4 + 3 3/4); 1 + 1/2, 2 + 1/0.5
    expected = [[1.0 + 1.0 / (1.0 + 12.0**0.5), 2.0 + 1.0 / 2.375], [1.5, 4.0]]
    assert found == pytest.approx(np.array(expected), rel=1e-15)


def test_the_gradient_is_that_of_the_losses():
    check_gradient(planted_law(3), relative=1e-7)


def test_a_law_is_found_again_from_its_own_losses_with_domains_that_have_no_weight():
    law, weights = planted_law(4), drawn_mixtures(32, 4)
    weights[::4, 0] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    found = fit_power(weights, law.predict(weights))
    others = drawn_mixtures(50, 4, seed=9)
    assert found.predict(others) == pytest.approx(law.predict(others), abs=1e-3)
    assert found.exponents == pytest.approx(law.exponents, abs=0.03)


def test_what_falls_steeply_from_weight_zero_is_predicted_better_than_by_an_exponential():
    law, weights, others = planted_law(3), drawn_mixtures(24, 3), drawn_mixtures(50, 3, seed=9)
    losses, expected = law.predict(weights), law.predict(others)
    errors = [
        np.abs(fit(weights, losses).predict(others) - expected).mean()
        for fit in (fit_power, fit_exponential)
    ]
    assert errors[0] < 1e-3
    assert errors[1] > 0.01


@pytest.mark.parametrize("seed", range(2))
def test_the_best_mixture_is_recovered_from_32_noisy_runs(seed):
    assert distance_after_noise(planted_law(4, seed), fit_power, seed) < 0.02


def test_losses_that_no_mixture_changes_are_a_constant():
    weights = drawn_mixtures(12, 3)
    found = fit_power(weights, np.full((12, 1), 3.0))
    assert found.predict(weights) == pytest.approx(3.0, abs=1e-4)


def test_a_fit_from_a_law_nearby_is_no_worse_than_from_many_starts():
    law, weights = planted_law(3), drawn_mixtures(20, 3)
    losses = law.predict(weights) + np.random.default_rng(3).normal(0.0, 0.01, (20, 3))
    first = fit_power(weights, losses)
    again = fit_power(weights, losses, near=first)
    assert again.predict(weights) == pytest.approx(first.predict(weights), abs=1e-4)
