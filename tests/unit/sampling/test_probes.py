import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.sampling.probes import ProbeSampler
from megadga.sampling.sampler import MixtureSampler


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_probes_go_through_every_window_before_one_repeats(sizes, count, seed, data):
    domain = data.draw(st.integers(0, len(sizes) - 1))
    sampler = ProbeSampler(np.array(sizes), seed=seed)
    num_updates = 3 * sizes[domain] // count + 1
    draws = [sampler.draw(update, domain, count) for update in range(num_updates)]
    assert {tuple(draw.domains) for draw in draws} == {(domain,) * count}
    stream = np.concatenate([draw.sequences for draw in draws])[: 3 * sizes[domain]]
    for epoch in stream.reshape(3, sizes[domain]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(sizes[domain]))


def test_a_draw_is_a_function_of_its_address_alone():
    sizes = np.array([1000, 2**40])
    one, other = ProbeSampler(sizes, seed=5), ProbeSampler(sizes, seed=5)
    other.draw(0, 0, 3)
    np.testing.assert_array_equal(one.draw(7, 1, 8).sequences, other.draw(7, 1, 8).sequences)


@pytest.mark.parametrize("other", [{"seed": 6}, {"update": 8}, {"domain": 1}])
def test_another_address_gives_other_windows(other):
    address = {"seed": 5, "update": 7, "domain": 0}

    def windows(seed, update, domain):
        return ProbeSampler(np.array([2**40, 2**40]), seed=seed).draw(update, domain, 8).sequences

    assert np.intersect1d(windows(**address), windows(**(address | other))).size == 0


def test_probes_do_not_follow_the_training_order():
    size, seed = 1000, 5
    probed = ProbeSampler(np.array([size]), seed=seed).draw(0, 0, size).sequences
    sampler = MixtureSampler(np.array([size]), global_batch_size=size, seed=seed)
    trained = sampler.plan(sampler.init(), np.ones(1)).selection.sequences
    assert abs(np.corrcoef(probed, trained)[0, 1]) < 5 / np.sqrt(size - 1)


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, 2, 1), (0, -1, 1), (0, 0, 0)])
def test_an_argument_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match="draw: expected update >= 0, 0 <= domain < 2"):
        ProbeSampler(np.array([3, 3]), seed=0).draw(*arguments)
