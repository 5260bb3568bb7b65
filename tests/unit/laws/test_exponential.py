import numpy as np
import pytest

from megadga.laws.exponential import ExponentialLaw, fit_exponential
from megadga.laws.fitting import huber
from tests.support.laws import check_gradient, distance_after_noise, drawn_mixtures


def planted_law(num_domains: int, seed: int = 0) -> ExponentialLaw:
    """A law in which each domain lowers the loss of its own set by far the most."""
    rng = np.random.default_rng(seed)
    pure = np.log(2.0) - rng.uniform(0.0, 0.6, (num_domains, num_domains))
    pure -= 2.0 * np.eye(num_domains)
    means = pure.mean(axis=1)
    floors = rng.uniform(1.5, 2.5, num_domains)
    return ExponentialLaw(floors, np.exp(means), pure - means[:, None])


def test_losses_are_those_of_the_formula():
    law = ExponentialLaw(
        floors=np.array([1.0, 2.0]),
        scales=np.array([0.5, 3.0]),
        slopes=np.array([[-2.0, 2.0], [1.0, -1.0]]),
    )
    found = law.predict(np.array([[0.25, 0.75], [1.0, 0.0]]))
    # 1 + 0.5 exp(-2/4 + 2 3/4), 2 + 3 exp(1/4 - 3/4); 1 + 0.5 exp(-2), 2 + 3 exp(1)
    assert found == pytest.approx(
        np.array(
            [
                [1.0 + 0.5 * 2.718281828459045, 2.0 + 3.0 * 0.6065306597126334],
                [1.0 + 0.5 * 0.1353352832366127, 2.0 + 3.0 * 2.718281828459045],
            ]
        ),
        rel=1e-15,
    )


def test_the_gradient_is_that_of_the_losses():
    check_gradient(planted_law(3), relative=1e-8)


def test_hubers_loss_is_quadratic_up_to_delta_and_linear_beyond():
    loss, slope = huber(np.array([0.01, -0.02, 0.1]), 0.02)
    assert loss == pytest.approx(0.00005 + 0.0002 + 0.02 * (0.1 - 0.01), rel=1e-14)
    assert slope.tolist() == [0.01, -0.02, 0.02]


def test_a_law_is_found_again_from_its_own_losses():
    law, weights = planted_law(4), drawn_mixtures(24, 4)
    found = fit_exponential(weights, law.predict(weights))
    assert found.floors == pytest.approx(law.floors, abs=1e-3)
    assert found.scales == pytest.approx(law.scales, abs=1e-3)
    assert found.slopes == pytest.approx(law.slopes, abs=5e-3)
    assert found.slopes.sum(axis=1) == pytest.approx(0.0, abs=1e-12)


def test_a_run_that_went_wrong_moves_the_law_little():
    law, weights = planted_law(3), drawn_mixtures(24, 3)
    losses = law.predict(weights)
    losses[5] += 2.0
    far = fit_exponential(weights, losses).predict(weights) - law.predict(weights)
    # Its pull is delta (0.02), a hundredth of what least squares would give it.
    assert np.abs(far).max() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_best_mixture_is_recovered_from_32_noisy_runs(seed):
    assert distance_after_noise(planted_law(4, seed), fit_exponential, seed) < 0.02


def test_the_order_of_domains_does_not_matter():
    law, weights = planted_law(3), drawn_mixtures(20, 3)
    losses = law.predict(weights) + np.random.default_rng(3).normal(0.0, 0.01, (20, 3))
    order = [2, 0, 1]
    straight = fit_exponential(weights, losses).predict(weights)
    permuted = fit_exponential(weights[:, order], losses).predict(weights[:, order])
    assert permuted == pytest.approx(straight, abs=1e-4)


def test_losses_that_no_mixture_changes_are_a_constant():
    weights = drawn_mixtures(12, 3)
    found = fit_exponential(weights, np.full((12, 1), 3.0))
    assert found.predict(weights) == pytest.approx(3.0, abs=1e-5)
