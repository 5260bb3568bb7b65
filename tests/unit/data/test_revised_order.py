import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.order import WindowOrder
from megadga.data.sampler import MixtureSampler, SamplerState

seeds = st.integers(0, 2**64 - 1)


def drawn(order: WindowOrder, cursors, counts, seed):
    """Draw so many windows of each domain; return them and the cursors afterwards."""
    domains = np.repeat(np.arange(len(counts)), counts)
    draws = np.concatenate([c + np.arange(n) for c, n in zip(cursors, counts, strict=True)])
    found = order.windows(domains, draws.astype(np.int64), seed=seed)
    return np.split(found, np.cumsum(counts)[:-1]), cursors + np.array(counts)


@given(data=st.data(), seed=seeds)
def test_no_window_is_drawn_twice_in_an_epoch_and_none_is_lost_however_often_a_domain_grows(
    data, seed
):
    sizes = np.array(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    order, cursors = WindowOrder.of(sizes), np.zeros(sizes.size, dtype=np.int64)
    epochs = [[] for _ in sizes]  # of each domain, the windows of the running epoch

    def take(counts):
        nonlocal cursors
        windows, cursors = drawn(order, cursors, counts, seed)
        for domain, of_domain in enumerate(windows):
            for window in of_domain.tolist():
                assert window not in epochs[domain]
                epochs[domain].append(window)
                if len(epochs[domain]) == order.sizes[domain]:
                    assert sorted(epochs[domain]) == list(range(order.sizes[domain]))
                    epochs[domain].clear()

    for _ in range(data.draw(st.integers(1, 5))):
        take([data.draw(st.integers(0, 20)) for _ in sizes])
        growth = np.array([data.draw(st.integers(0, 8)) for _ in sizes])
        whole = order.epochs(cursors).astype(np.int64)
        revised = order.revised(cursors, np.arange(sizes.size), order.sizes + growth)
        order = revised.order
        np.testing.assert_array_equal(revised.cursors, cursors)
        np.testing.assert_array_equal(order.epochs(cursors).astype(np.int64), whole)
        left = [len(epoch) / size for epoch, size in zip(epochs, order.sizes, strict=True)]
        np.testing.assert_allclose(order.epochs(cursors) - whole, left)
    take((3 * order.sizes).tolist())


@given(data=st.data(), seed=seeds)
def test_others_that_leave_enter_and_change_places_do_not_change_a_domains_order(data, seed):
    sizes = np.array([7, 5, 9, 4])
    order = WindowOrder.of(sizes)
    counts = [data.draw(st.integers(0, 20)) for _ in sizes]
    _, cursors = drawn(order, np.zeros(4, dtype=np.int64), counts, seed)
    sources = np.array(data.draw(st.permutations([0, 2, 3, -1, -1])))
    after = np.where(sources >= 0, sizes[sources], 6)
    revised = order.revised(cursors, sources, after)

    expected, _ = drawn(order, cursors, [25] * 4, seed)
    found, _ = drawn(revised.order, revised.cursors, [25] * 5, seed)
    for place, source in enumerate(sources.tolist()):
        if source >= 0:
            np.testing.assert_array_equal(found[place], expected[source])
            assert revised.cursors[place] == cursors[source]
        else:
            assert revised.cursors[place] == 0
    assert np.unique(revised.order.numbers).size == sources.size
    assert order.reserved not in revised.order.numbers
    again = revised.order.revised(revised.cursors, np.array([-1, 0, 1, 2, 3, 4]), np.full(6, 9))
    assert again.order.numbers[0] > revised.order.numbers.max()


def test_what_is_new_is_mixed_with_what_was_left():
    order = WindowOrder.of(np.array([1000]))
    _, cursors = drawn(order, np.zeros(1, dtype=np.int64), [500], 3)
    grown = order.revised(cursors, np.array([0]), np.array([1500])).order
    ((next_windows,), _) = drawn(grown, cursors, [500], 3)
    # Half of the 1000 that are left are new: a hypergeometric number with deviation 11.2.
    assert abs(int((next_windows >= 1000).sum()) - 250) < 56
    assert not (next_windows[:-1] < next_windows[1:]).all()


def test_a_domain_that_grows_between_two_epochs_starts_a_plain_permutation():
    order = WindowOrder.of(np.array([6]))
    cursors = np.array([12])
    grown = order.revised(cursors, np.array([0]), np.array([9])).order
    assert not grown.growths.size
    ((windows,), _) = drawn(grown, cursors, [9], 5)
    assert sorted(windows.tolist()) == list(range(9))


def test_the_cap_counts_epochs_of_what_a_domain_has_grown_to():
    order = WindowOrder.of(np.array([10, 10]))
    cursors = np.array([15, 4])
    revised = order.revised(cursors, np.array([0, 1]), np.array([30, 10]))
    np.testing.assert_allclose(revised.order.epochs(cursors), [1 + 5 / 30, 0.4])
    # Two epochs: 10 draws of the first, 30 of the second, or 10 and 10 if nothing grew.
    np.testing.assert_array_equal(revised.order.max_draws(2.0), [40, 20])
    sampler = MixtureSampler(revised.order, global_batch_size=5, seed=1, max_epochs=2.0)
    state = SamplerState(step=7, cursors=revised.cursors)
    weights = np.array([1.0, 0.0])
    for _ in range(5):
        state = sampler.plan(state, weights).state_after
    assert state.cursors[0] == 40
    with pytest.raises(Exception, match="found 0 left under max_epochs"):
        sampler.plan(state, weights)


def test_hundreds_of_thousands_of_domains_that_all_grew_share_a_batch():
    num_domains = 262_144
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 2**20, num_domains)
    order, cursors = WindowOrder.of(sizes), rng.integers(0, sizes)
    for _ in range(2):
        order = order.revised(cursors, np.arange(num_domains), order.sizes + 5).order
    plan = MixtureSampler(order, global_batch_size=1024, seed=1).plan(
        SamplerState(0, cursors), np.full(num_domains, 1 / num_domains)
    )
    assert (plan.selection.sequences < order.sizes[plan.selection.domains]).all()


@pytest.mark.parametrize(
    ("sources", "sizes", "message"),
    [
        ([0, 1], [5, 3], "sizes: expected at least 4 windows, as before, found 3 at index 1"),
        ([0, 0], [5, 5], "sources: expected each domain once"),
        ([0, -1], [5, 0], r"sizes: expected 1 <= size"),
    ],
)
def test_a_revision_that_is_none_is_refused(sources, sizes, message):
    order = WindowOrder.of(np.array([5, 4]))
    with pytest.raises(ValueError, match=message):
        order.revised(np.zeros(2, dtype=np.int64), np.array(sources), np.array(sizes))
