import numpy as np
import pytest

from megadga.laws.scaling import TiedPowerLaws, fit_tied

LAWS = TiedPowerLaws(np.array([2.0, 3.0]), np.array([12.0, 10.0]), 0.47)


def test_losses_are_those_of_the_formula():
    # (x0 / x)^alpha with x0 / x = e^2 and 1
    assert LAWS.predict(np.exp(10.0)) == pytest.approx([2.0 + np.exp(0.94), 4.0], rel=1e-14)


def test_curves_are_found_again_and_followed_beyond_their_ends():
    x = np.geomspace(1e5, 1e6, 8)
    losses = np.stack([LAWS.predict(each) for each in x])
    found = fit_tied(x, losses, delta=0.05)
    assert found.exponent == pytest.approx(0.47, abs=1e-4)
    assert found.floors == pytest.approx(LAWS.floors, abs=1e-3)
    assert found.predict(1e7) == pytest.approx(LAWS.predict(1e7), abs=1e-4)


def test_curves_share_the_exponent_that_fits_all_of_them():
    x = np.geomspace(1.0, 16.0, 6)
    slow, fast = 1.0 + x**-0.3, 1.0 + x**-0.9
    found = fit_tied(x, np.stack([slow, fast], axis=1), delta=0.05)
    assert 0.3 < found.exponent < 0.9


def test_fewer_points_than_a_curve_has_unknowns_are_refused():
    with pytest.raises(ValueError, match="expected at least 3 points, found 2"):
        fit_tied(np.array([1.0, 2.0]), np.ones((2, 1)), delta=0.05)
