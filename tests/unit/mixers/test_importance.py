import math

import numpy as np
import pytest

from megadga.mixers.importance import importance_weights


def test_weights_are_shares_in_the_order_of_the_names():
    weights = importance_weights({"web": 1, "law": 3, "code": 0}, ["law", "code", "web"])
    np.testing.assert_allclose(weights, [0.75, 0.0, 0.25], rtol=1e-15)


def test_unknown_and_missing_domains_are_both_named():
    with pytest.raises(
        ValueError, match=r"expected exactly the 2 domains, found lwa unknown and law"
    ):
        importance_weights({"web": 1, "lwa": 3}, ["law", "web"])


def test_a_long_list_of_names_is_cut_and_counted():
    names = [f"cluster-{index:03}" for index in range(100)]
    with pytest.raises(ValueError, match=r"cluster-004 \.\.\. \(100 in all\) missing"):
        importance_weights({}, names)


@pytest.mark.parametrize("mass", [-1.0, math.nan, math.inf])
def test_a_mass_that_is_no_mass_is_named(mass):
    with pytest.raises(ValueError, match="histogram: law: expected a finite number >= 0"):
        importance_weights({"web": 1.0, "law": mass}, ["law", "web"])


def test_an_empty_histogram_has_no_mixture():
    with pytest.raises(ValueError, match="found only 0"):
        importance_weights({"web": 0, "law": 0}, ["law", "web"])


def test_masses_of_any_size_are_normalised():
    weights = importance_weights({"web": 1e308, "law": 1e308}, ["law", "web"])
    np.testing.assert_array_equal(weights, [0.5, 0.5])
