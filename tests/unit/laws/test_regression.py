import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.laws.regression import BoostedLaw, LinearLaw, fit_boosted, fit_linear


def test_a_linear_law_is_the_mean_of_its_losses_at_weight_one():
    law = LinearLaw(np.array([[1.0, 3.0]]))
    assert law.predict(np.array([[0.25, 0.75]])).tolist() == [[2.5]]


def test_coefficients_are_found_again():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    coefficients = np.array([[2.0, 3.0, 4.0], [5.0, 1.0, 2.5]])
    found = fit_linear(weights, weights @ coefficients.T)
    assert found.coefficients == pytest.approx(coefficients, abs=1e-12)


def test_trees_follow_what_is_not_linear_and_survive_their_text():
    weights = np.random.default_rng(0).dirichlet(np.ones(2), 400)
    losses = np.abs(weights[:, :1] - 0.5)  # a line predicts the mean, 0.25
    law = fit_boosted(weights, losses)
    points = np.array([[0.5, 0.5], [0.95, 0.05], [0.05, 0.95]])
    assert law.predict(points)[:, 0] == pytest.approx([0.0, 0.45, 0.45], abs=0.05)
    assert (BoostedLaw(law.models).predict(points) == law.predict(points)).all()


def test_so_few_runs_that_no_tree_would_have_a_split_are_refused():
    with pytest.raises(ConfigError, match=r"expected at least 40 runs, .* found 39"):
        fit_boosted(np.full((39, 2), 0.5), np.ones((39, 1)))
