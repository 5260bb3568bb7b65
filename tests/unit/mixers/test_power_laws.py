import numpy as np
import pytest
from scipy.optimize import minimize

from megadga.mixers.power_laws import (
    MAX_BINS,
    MIN_BINS,
    LossCurves,
    fit_power_laws,
    num_bins,
)


def curves_of(losses, *, counts=None, first=100, every=100) -> LossCurves:
    """Curves of losses by observation and domain, (T, K), at positions first, first + every ..."""
    curves = LossCurves.empty(losses.shape[1])
    counts = np.ones_like(losses) if counts is None else counts
    for place, (row, drawn) in enumerate(zip(losses, counts, strict=True)):
        curves = curves.observed(row, drawn, float(first + every * place))
    return curves


def positions(number, *, first=100, every=100):
    return first + every * np.arange(number, dtype=np.float64)


@pytest.mark.parametrize("number", [1, MAX_BINS - 1, MAX_BINS, MAX_BINS + 1, 5 * MAX_BINS + 3])
def test_a_curve_of_any_length_keeps_its_sums_in_equal_bins(number):
    rng = np.random.default_rng(number)
    losses, counts = rng.random((number, 2)), rng.integers(0, 4, (number, 2)).astype(float)
    curves = curves_of(losses, counts=counts)

    used = int(np.count_nonzero(curves.observations))
    width = int(curves.observations.max())
    assert (curves.observations[: used - 1] == width).all()
    assert curves.observations.sum() == number
    assert used > MAX_BINS // 2 or width == 1
    for place in range(used):
        rows = slice(place * width, (place + 1) * width)
        np.testing.assert_allclose(
            curves.losses[place], (losses * counts)[rows].sum(axis=0), rtol=1e-12
        )
        np.testing.assert_array_equal(curves.counts[place], counts[rows].sum(axis=0))
        assert curves.positions[place] == positions(number)[rows].sum()


def test_an_observation_leaves_the_curves_before_it_as_they_are():
    before = LossCurves.empty(1)
    before.observed(np.ones(1), np.ones(1), 1.0)
    assert not before.counts.any()


def test_a_planted_law_is_found():
    n = positions(100)
    planted = np.stack([2.0 + 30.0 * n**-0.5, 3.0 + 8.0 * n**-0.2], axis=1)
    laws = fit_power_laws(curves_of(planted))
    np.testing.assert_allclose(laws.exponent, [0.5, 0.2], atol=1e-12)  # exponents of the grid
    np.testing.assert_allclose(laws.floor, [2.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(laws.losses(20_000.0), [2.2121, 4.1038], rtol=1e-4)
    slopes = [0.5 * 30.0 * 5_000.0**-1.5, 0.2 * 8.0 * 5_000.0**-1.2]
    np.testing.assert_allclose(laws.slopes(5_000.0), slopes, rtol=1e-5)


def test_a_fit_is_as_good_as_that_of_a_general_optimizer():
    rng = np.random.default_rng(0)
    n = positions(110)
    noisy = (1.5 + 12.0 * n**-0.31) * np.exp(rng.normal(0.0, 0.02, n.size))
    laws = fit_power_laws(curves_of(noisy[:, None]))

    def objective(floor, scale, exponent):
        found = floor + scale * (n / n[-1]) ** -exponent
        errors = np.abs(np.log(np.maximum(found, 1e-9) / noisy))
        return np.where(errors > 1e-3, 1e-3 * (errors - 0.5e-3), 0.5 * errors**2).sum()

    starts = [(f, 1.0, e) for f in (0.5, 1.5, 2.5) for e in (0.1, 0.3, 0.6)]
    bounds = [(0.0, None), (0.0, None), (0.02, 0.8)]
    best = min(
        minimize(lambda p: objective(*p), start, method="Nelder-Mead", bounds=bounds).fun
        for start in starts
    )
    assert objective(laws.floor[0], laws.scale[0], laws.exponent[0]) <= 1.01 * best


def test_an_outlier_does_not_move_a_fit():
    n = positions(100)
    losses = (2.0 + 30.0 * n**-0.5)[:, None]
    with_outlier = losses.copy()
    with_outlier[50] = 20.0
    without, found = (fit_power_laws(curves_of(each)) for each in (losses, with_outlier))
    np.testing.assert_allclose(found.slopes(10_000.0), without.slopes(10_000.0), rtol=0.02)


def test_losses_that_rise_have_no_slope():
    laws = fit_power_laws(curves_of(np.linspace(2.0, 3.0, 50)[:, None]))
    assert laws.slopes(5_000.0).tolist() == [0.0]


def test_a_domain_with_too_few_points_has_no_law():
    counts = np.ones((50, 2))
    counts[7:, 1] = 0.0
    laws = fit_power_laws(curves_of(np.linspace(3.0, 2.0, 100).reshape(50, 2), counts=counts))
    assert laws.exponent[0] > 0.0
    assert (laws.exponent[1], laws.slopes(5_000.0)[1]) == (0.0, 0.0)


def test_each_domain_is_fitted_alone():
    rng = np.random.default_rng(1)
    losses = 1.0 + rng.random((60, 150)) + 5.0 * positions(60)[:, None] ** -0.4
    whole = fit_power_laws(curves_of(losses))
    alone = fit_power_laws(curves_of(losses[:, [149]]))
    np.testing.assert_allclose(whole.floor[149], alone.floor[0], rtol=1e-12)
    assert whole.exponent[149] == alone.exponent[0]


def test_more_domains_have_fewer_bins():
    assert [num_bins(k) for k in (1, 2**14, 2**15, 2**20)] == [MAX_BINS, 128, 64, MIN_BINS]
