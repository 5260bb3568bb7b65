import math

import numpy as np
import pytest

from megadga.mixers.base import DomainLosses, LossNeeds, MixtureState, Scheduler
from megadga.mixers.odm import Odm, exploration

LN2 = math.log(2)


def losses(values, *, step, counts=None) -> DomainLosses:
    counts = np.ones(len(values), np.int64) if counts is None else np.array(counts)
    return DomainLosses(np.array(values, np.float64), counts, step)


def after(scheduler: Scheduler, *observed: DomainLosses) -> MixtureState:
    state = scheduler.init()
    for domain_losses in observed:
        state = scheduler.update(state, domain_losses)
    return state


def test_two_updates_equal_the_values_worked_out_by_hand():
    # K = 2, smoothing 1/2, pi = (1/2, 1/2), R = (0, 0), eps_0 = 1/2.
    scheduler = Odm(np.array([0.5, 0.5]), smoothing=0.5)

    # Step 8: L / pi = (2 * 2, 2 * 6) = (4, 12); R = (4, 12) / 2 = (2, 6).
    # eps_8 = sqrt(ln 2 / (2 * 8)) = sqrt(ln 2) / 4 = 0.208 < 1/2.
    # exp(eps_0 R) = (e^1, e^3): shares 1 / (1 + e^2) and e^2 / (1 + e^2).
    eps_8 = math.sqrt(LN2) / 4
    shares = np.array([1.0, math.e**2]) / (1.0 + math.e**2)
    first = (1 - 2 * eps_8) * shares + eps_8
    state = scheduler.update(scheduler.init(), losses([2, 6], step=8))
    np.testing.assert_allclose(state.weights, first, rtol=1e-12)
    np.testing.assert_array_equal(state.weights, state.averaged_weights)

    # Step 16: only the first domain is drawn, at loss 3. R_1 = 2/2 + 3 / pi_1 / 2; R_2 = 6.
    # eps_16 = sqrt(ln 2 / 32); exponents eps_8 R.
    eps_16 = math.sqrt(LN2 / 32)
    reward = 1.0 + 1.5 / first[0]
    share = 1.0 / (1.0 + math.exp(eps_8 * (6.0 - reward)))
    state = scheduler.update(state, losses([3, 0], step=16, counts=[5, 0]))
    expected = (1 - 2 * eps_16) * np.array([share, 1 - share]) + eps_16
    np.testing.assert_allclose(state.weights, expected, rtol=1e-12)
    assert (state.num_updates, state.num_skipped) == (2, 0)


def test_exponential_rewards_are_shares_of_smoothed_perplexity():
    # exp(L) = (2, 6), smoothing 1/2: R = (1, 3), shares (1/4, 3/4). Then exp(L) = (5, 1):
    # R = (1/2 + 5/2, 3/2 + 1/2) = (3, 2), shares (3/5, 2/5).
    scheduler = Odm(np.array([0.9, 0.1]), smoothing=0.5, reward="exponential")
    eps = [exploration(2, step) for step in (100, 200)]
    first = losses(np.log([2, 6]), step=100)
    state = after(scheduler, first)
    expected = (1 - 2 * eps[0]) * np.array([1 / 4, 3 / 4]) + eps[0]
    np.testing.assert_allclose(state.weights, expected, rtol=1e-12)
    state = after(scheduler, first, losses([math.log(5), 0], step=200))
    expected = (1 - 2 * eps[1]) * np.array([3 / 5, 2 / 5]) + eps[1]
    np.testing.assert_allclose(state.weights, expected, rtol=1e-12)


def test_a_domain_that_was_never_drawn_gets_the_exploration_alone():
    scheduler = Odm(np.full(3, 1 / 3), reward="exponential")
    state = after(scheduler, losses([3, 0, 3], step=1000, counts=[1, 0, 1]))
    assert state.weights[1] == exploration(3, 1000)


def test_without_smoothing_only_the_last_reward_counts():
    scheduler = Odm(np.full(2, 0.5), smoothing=0.0, reward="exponential")
    last = losses([1, 2], step=50)
    state, once = after(scheduler, losses([9, 4], step=40), last), after(scheduler, last)
    np.testing.assert_array_equal(state.weights, once.weights)


def test_while_warming_up_weights_stay_and_rewards_are_collected():
    scheduler = Odm(np.array([0.3, 0.7]), smoothing=0.5, warmup=10)
    state = after(scheduler, losses([1, 2], step=10))
    np.testing.assert_array_equal(state.averaged_weights, [0.3, 0.7])
    np.testing.assert_allclose(state.memory["rewards"], [0.5 / 0.3, 1 / 0.7], rtol=1e-15)
    state = scheduler.update(state, losses([1, 2], step=11))
    assert (state.weights != [0.3, 0.7]).all()


def test_weights_are_uniform_until_exploration_leaves_room():
    # K ln K = 16 ln 16 = 44.4 steps.
    assert [exploration(16, step) < 1 / 16 for step in (44, 45)] == [False, True]
    state = after(Odm(np.full(16, 1 / 16)), losses(range(16), step=44))
    np.testing.assert_allclose(state.weights, np.full(16, 1 / 16), rtol=1e-15)


def test_exploration_falls_from_uniform_with_the_root_of_the_steps():
    assert exploration(4, 1) == 0.25
    # ln K / (K t) = ln 4 / 400.
    assert exploration(4, 100) == pytest.approx(math.sqrt(math.log(4) / 400), rel=1e-15)
    assert exploration(1, 7) == 0.0
    with pytest.raises(ValueError, match="step: expected at least 1, found 0"):
        exploration(4, 0)


@pytest.mark.parametrize(
    "bad", [losses([math.nan, 1], step=3), losses([1, 1], step=3, counts=[0, 0])]
)
def test_a_useless_observation_is_counted_and_left_out(bad):
    scheduler = Odm(np.array([0.5, 0.5]))
    before = scheduler.init()
    state = scheduler.update(before, bad)
    np.testing.assert_array_equal(state.memory["rewards"], before.memory["rewards"])
    assert (state.num_updates, state.num_skipped) == (0, 1)


def test_it_observes_the_losses_of_training():
    assert Odm(np.array([1.0])).observes == LossNeeds(reference=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial: expected a sum of 1"),
        ({"smoothing": 1.0}, "smoothing: expected 0 <= smoothing < 1, found 1.0"),
        ({"warmup": -1}, "warmup: expected at least 0 steps, found -1"),
        ({"reward": "loss"}, "reward: expected importance or exponential, found 'loss'"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Odm(**{"initial": np.array([0.5, 0.5])} | change)


def test_losses_of_other_domains_are_refused():
    scheduler = Odm(np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"domain losses: expected shape \(2,\), found \(3,\)"):
        scheduler.update(scheduler.init(), losses([1, 2, 3], step=1))
