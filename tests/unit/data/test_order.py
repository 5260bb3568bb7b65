import numpy as np
import pytest

from megadga.data.order import check_sizes, shuffled_windows
from megadga.data.permutation import RandomStream


def epoch_of(number, *, domain=0, seed=3, stream=RandomStream.TRAINING_ORDER):
    """One epoch of one of two domains of 500 windows."""
    draws = np.arange(500 * number, 500 * (number + 1))
    domains = np.full(500, domain)
    return shuffled_windows(domains, draws, np.array([500, 500]), seed=seed, stream=stream)


@pytest.mark.parametrize("number", [0, 1, 10**6])
def test_an_epoch_holds_every_window_once(number):
    np.testing.assert_array_equal(np.sort(epoch_of(number)), np.arange(500))


@pytest.mark.parametrize(
    "other",
    [
        {"number": 1},
        {"number": 0, "domain": 1},
        {"number": 0, "seed": 4},
        {"number": 0, "stream": RandomStream.PROBE_ORDER},
    ],
)
def test_each_component_of_the_address_changes_the_order(other):
    # Rank correlations of independent orders have standard deviation 1/sqrt(499).
    assert abs(np.corrcoef(epoch_of(0), epoch_of(**other))[0, 1]) < 5 / np.sqrt(499)


def test_draws_of_several_domains_and_epochs_may_be_mixed():
    domains, draws = np.array([1, 0, 1, 0]), np.array([499, 0, 500, 1001])
    found = shuffled_windows(
        domains, draws, np.array([500, 500]), seed=3, stream=RandomStream.TRAINING_ORDER
    )
    expected = [
        epoch_of(0, domain=1)[499],
        epoch_of(0)[0],
        epoch_of(1, domain=1)[0],
        epoch_of(2)[1],
    ]
    np.testing.assert_array_equal(found, expected)


def test_the_sizes_checked_are_a_copy():
    sizes = np.array([3, 2**62])
    checked = check_sizes(sizes)
    sizes[0] = 0
    np.testing.assert_array_equal(checked, [3, 2**62])
