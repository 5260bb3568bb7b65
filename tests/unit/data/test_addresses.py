import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.permutation import RandomStream, address_keys, check_seed, mix

seeds = st.integers(0, 2**64 - 1)


def test_mix_is_the_finaliser_of_splitmix64():
    # SplitMix64 from state 0 gives these first outputs (published with the reference C code); the
    # state is a multiple of its constant.
    states = np.array([1, 2, 3], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(states).tolist() == outputs


@given(seed=seeds, stream=st.sampled_from(RandomStream), other=st.sampled_from(RandomStream))
def test_streams_of_one_seed_have_their_own_keys(seed, stream, other):
    same = address_keys(seed, stream, 3, 5)[0] == address_keys(seed, other, 3, 5)[0]
    assert same == (stream == other)


def test_no_two_addresses_of_a_grid_share_a_key():
    keys = address_keys(7, RandomStream.TRAINING_ORDER, np.arange(300)[:, None], np.arange(300))
    assert np.unique(keys).size == 300 * 300


@given(seed=seeds, bit=st.integers(0, 63))
def test_one_bit_of_a_seed_changes_about_half_the_bits_of_the_keys(seed, bit):
    domains = np.arange(64)
    changed = address_keys(seed, RandomStream.PROBE_ORDER, domains, 0)
    changed ^= address_keys(seed ^ (1 << bit), RandomStream.PROBE_ORDER, domains, 0)
    # 64 x 64 fair bits: mean 2048, standard deviation 32; 8 of them are never exceeded by chance.
    assert abs(int(np.unpackbits(changed.view(np.uint8)).sum()) - 2048) < 256


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed: expected 0 <= seed < 2\*\*64"):
        check_seed(seed)
