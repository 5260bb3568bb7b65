import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.mixers.ado import Ado, AdoOptions, make_ado
from megadga.mixers.base import DomainLosses, LossNeeds
from megadga.mixers.carrying import MixtureChange
from megadga.mixers.power_laws import LossCurves, fit_power_laws
from megadga.mixers.rule import RuleContext


def observed(losses, *, step, counts=None) -> DomainLosses:
    counts = np.full(len(losses), 4) if counts is None else np.array(counts)
    return DomainLosses(np.array(losses, np.float64), counts, step)


def follow(rule, losses, *, every=1):
    """The states of a run with losses by update and domain, (T, K), of 4 sequences a step."""
    states = [rule.init()]
    for update, row in enumerate(losses, start=1):
        states.append(
            rule.update(
                states[-1], observed(row, step=every * update, counts=[4 * every] * len(row))
            )
        )
    return states


def falling(number, exponents, *, floor=2.0):
    n = np.arange(1, number + 1, dtype=np.float64)
    return floor + 3.0 * n[:, None] ** -np.array(exponents)


def test_an_update_after_a_fit_equals_the_formulas():
    prior = np.array([0.5, 0.3, 0.2])
    rule = Ado(prior, warmup=20, ignored=5, fit_interval=1000, min_weight=0.05)
    losses = falling(21, [0.7, 0.3, 0.1])
    *_, before, first, second = follow(rule, losses)
    np.testing.assert_array_equal(before.averaged_weights, prior)

    curves = LossCurves.empty(3)
    for step, row in enumerate(losses[5:20], start=6):
        curves = curves.observed(row, np.full(3, 4.0), 12.0 * step)
    laws = fit_power_laws(curves)
    credit, mean = prior, prior
    for state, step in ((first, 20), (second, 21)):
        scores = prior * np.sqrt(credit) * laws.slopes(12.0 * step)
        preference = np.maximum(scores / scores.sum(), 0.05)
        preference /= preference.sum()
        weights = 0.1 * preference + 0.9 * mean
        mean = mean + (preference - mean) / (step + 1)
        credit = 0.1 * weights + 0.9 * credit
        np.testing.assert_allclose(state.averaged_weights, weights, rtol=1e-12)
        np.testing.assert_allclose(state.memory["credit"], credit, rtol=1e-12)
        np.testing.assert_allclose(state.memory["mean_preference"], mean, rtol=1e-12)


def test_losses_that_still_fall_get_weight_and_noise_none():
    rng = np.random.default_rng(0)
    losses = np.column_stack(
        [
            falling(600, [0.4]),  # goes on falling
            falling(600, [0.8]) - 1.0,  # has been learned
            np.full(600, 6.0) + rng.normal(0.0, 0.05, 600),  # noise
        ]
    )
    rule = Ado(np.full(3, 1 / 3), warmup=60, ignored=30, fit_interval=100)
    weights = follow(rule, losses)[-1].averaged_weights
    assert weights[0] > 0.6
    assert weights[2] < 0.1


def test_an_interval_holds_rates_for_a_step():
    rule = Ado(np.array([0.6, 0.4]), warmup=100, fit_interval=1000)
    losses = falling(400, [0.7, 0.2])
    often, seldom = follow(rule, losses)[-1], follow(rule, losses[9::10], every=10)[-1]
    np.testing.assert_allclose(seldom.averaged_weights, often.averaged_weights, atol=0.02)


def test_a_domain_without_weight_stays_without():
    rule = Ado(np.array([0.5, 0.5, 0.0]), warmup=10, min_weight=0.1)
    state = follow(rule, falling(30, [0.5, 0.2, 0.4]))[-1]
    assert state.averaged_weights[2] == 0.0
    assert not np.array_equal(state.averaged_weights, rule.initial)


def test_with_too_few_losses_the_weights_stay():
    prior = np.array([0.7, 0.3])
    state = follow(Ado(prior, warmup=2), falling(6, [0.5, 0.1]))[-1]
    np.testing.assert_array_equal(state.averaged_weights, prior)
    assert state.num_updates == 6


def test_what_is_not_finite_is_left_out():
    rule = Ado(np.array([0.5, 0.5]), warmup=2)
    state = rule.update(rule.init(), observed([1.0, np.nan], step=1))
    assert (state.num_updates, state.num_skipped) == (0, 1)
    nothing = rule.update(state, observed([0.0, 0.0], step=1, counts=[0, 0]))
    assert nothing.num_skipped == 2


def test_weights_set_by_hand_are_what_it_goes_on_from():
    rule = Ado(np.array([0.5, 0.5]), warmup=20)
    state = follow(rule, falling(40, [0.7, 0.3]))[-1]
    moved = rule.continue_from(state, np.array([0.9, 0.1]))
    after = rule.update(moved, observed(falling(41, [0.7, 0.3])[-1], step=41))
    assert after.averaged_weights[0] > 0.8


def test_it_observes_the_losses_of_training():
    assert Ado(np.ones(1), warmup=1).observes == LossNeeds()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 0}, "ignored: expected 0 <= ignored < warmup"),
        ({"warmup": 5, "ignored": 5}, "ignored: expected 0 <= ignored < warmup, found 5"),
        ({"warmup": 5, "fit_interval": 0}, "fit_interval: expected at least 1, found 0"),
        ({"warmup": 5, "credit_power": 0.0}, "credit_power: expected above 0, found 0.0"),
        ({"warmup": 5, "credit_rate": 1.5}, r"credit_rate: expected a share in \[0, 1\]"),
        ({"warmup": 5, "min_weight": 0.6}, r"min_weight: expected in \[0, 0.5\], found 0.6"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Ado(np.array([0.5, 0.5]), **options)


def context(num_domains: int, total_steps: int) -> RuleContext:
    names = tuple(f"d{index}" for index in range(num_domains))
    tokens = np.ones(num_domains, dtype=np.int64)
    weights = np.full(num_domains, 1.0 / num_domains)
    return RuleContext(names, tokens, total_steps, lambda key, rule: weights)


def test_defaults_follow_the_length_of_the_run_and_the_number_of_domains():
    few = make_ado(AdoOptions(type="ado"), context(4, 60_000))
    assert (few.warmup, few.ignored, few.fit_interval) == (1200, 600, 1000)
    assert few.min_weight == 0.01
    many = make_ado(AdoOptions(type="ado"), context(1000, 60))
    assert (many.warmup, many.ignored, many.fit_interval) == (2, 1, 1)
    assert many.min_weight == pytest.approx(0.25e-3)


def test_a_least_weight_above_one_over_the_domains_is_refused():
    with pytest.raises(ConfigError, match=r"mixing.min_weight: expected at most 0.25, found 0.5"):
        make_ado(AdoOptions(type="ado", min_weight=0.5), context(4, 100))


def test_curves_start_anew_where_so_many_domains_enter_that_bins_are_fewer():
    few, many = 2**14, 2**15
    rule = Ado(np.full(few, 1 / few), warmup=9, min_weight=0.0)
    state = rule.update(rule.init(), observed(np.ones(few), step=1))
    sources = np.concatenate([np.arange(few), np.full(few, -1)])
    entering = np.where(sources < 0, 1 / many, 0.0)
    after = Ado(np.full(many, 1 / many), warmup=9, min_weight=0.0).carried(
        state, MixtureChange(sources, few, entering, step=1)
    )
    assert not after.memory["curve_counts"].any()
    assert after.memory["progress"].tolist() == state.memory["progress"].tolist()
