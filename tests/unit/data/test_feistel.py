from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.permutation import RandomStream, address_keys, permute

keys = st.integers(0, 2**64 - 1)


def shuffled(size: int, key: int) -> np.ndarray:
    return permute(np.arange(size), np.full(size, size), np.full(size, key, dtype=np.uint64))


def orders(size: int, num_keys: int) -> np.ndarray:
    """The permutations of ``size`` in the first epochs of a domain, shape (num_keys, size)."""
    key = np.repeat(address_keys(5, RandomStream.TRAINING_ORDER, 2, np.arange(num_keys)), size)
    positions = np.tile(np.arange(size), num_keys)
    return permute(positions, np.full(key.size, size), key).reshape(num_keys, size)


def chi_squared(counts: np.ndarray, expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@given(size=st.integers(1, 3000), key=keys)
def test_every_size_and_key_gives_a_bijection(size, key):
    np.testing.assert_array_equal(np.sort(shuffled(size, key)), np.arange(size))


@pytest.mark.parametrize("bits", range(1, 13))
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_sizes_beside_a_power_of_two_give_a_bijection(bits, beside):
    size = 2**bits + beside
    np.testing.assert_array_equal(np.sort(shuffled(size, 99)), np.arange(size))


@pytest.mark.parametrize("size", [2**40, 2**40 + 1, 2**53 + 1, 2**62 - 1, 2**62])
def test_images_in_a_huge_domain_are_distinct_and_inside(size):
    positions = np.concatenate([np.arange(500), size - 1 - np.arange(500)])
    images = permute(positions, np.full(1000, size), np.full(1000, 7, dtype=np.uint64))
    assert images.min() >= 0
    assert images.max() < size
    assert np.unique(images).size == 1000
    # A uniform number below `size` has mean size/2 and standard deviation size/sqrt(12).
    assert abs(images.mean() / size - 0.5) < 6 / np.sqrt(12 * 1000)


@given(data=st.data(), rows=st.lists(st.tuples(st.integers(1, 2**50), keys), max_size=8))
def test_rows_are_independent_of_other_rows(data, rows):
    sizes = np.array([size for size, _ in rows], dtype=np.int64)
    key = np.array([key for _, key in rows], dtype=np.uint64)
    positions = np.array([data.draw(st.integers(0, s - 1)) for s in sizes], dtype=np.int64)
    together = permute(positions, sizes, key)
    one_by_one = [permute(positions[[i]], sizes[[i]], key[[i]])[0] for i in range(len(rows))]
    assert together.tolist() == one_by_one


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 16, 17, 40])
def test_every_window_is_equally_likely_at_every_position(size):
    # Row sums are fixed, so the counts have (size - 1)^2 degrees of freedom.
    num_keys, freedom = 4000, (size - 1) ** 2
    counts = np.zeros((size, size))
    np.add.at(counts, (np.tile(np.arange(size), num_keys), orders(size, num_keys).ravel()), 1)
    assert chi_squared(counts, num_keys / size) < freedom + 6 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [4, 5, 8, 16, 17, 40])
def test_distances_of_neighbours_are_uniform(size):
    # This is what too few rounds fail first. Six standard deviations of chi squared are allowed.
    distances = (np.diff(orders(size, 4000), axis=1) % size).ravel()
    counts, freedom = np.bincount(distances, minlength=size)[1:], size - 2
    assert chi_squared(counts, distances.size / (size - 1)) < freedom + 6 * np.sqrt(2 * freedom)


def test_every_permutation_of_a_small_domain_occurs():
    assert len({tuple(order) for order in orders(4, 1000).tolist()}) == 24


@pytest.mark.parametrize("size", [1000, 4096, 4097])
def test_the_order_is_uncorrelated_with_position_and_previous_epoch(size):
    # Rank correlations of independent orders have standard deviation 1/sqrt(size - 1), and the
    # number of fixed points is Poisson with mean 1 an epoch.
    num_epochs = 40
    epochs = orders(size, num_epochs)
    bound = 5 / np.sqrt(size - 1)
    for before, order in pairwise(epochs):
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < bound
        assert abs(np.corrcoef(before, order)[0, 1]) < bound
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound
    fixed = int((epochs == np.arange(size)).sum())
    repeated = int((epochs[1:] == epochs[:-1]).sum())
    for count in (fixed, repeated):
        assert abs(count - num_epochs) < 6 * np.sqrt(num_epochs)
