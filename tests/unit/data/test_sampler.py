from collections import defaultdict
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from megadga.data.rows import rank_rows
from megadga.data.sampler import MixtureSampler, SamplerState, kronecker_offset
from megadga.errors import ExhaustedError

METHODS = ["systematic", "multinomial"]
seeds = st.integers(0, 2**64 - 1)
methods = st.sampled_from(METHODS)


@st.composite
def mixtures(draw, num_domains: int):
    """Weights of which some may be 0."""
    masses = draw(arrays(np.float64, num_domains, elements=st.floats(0.0, 1.0)))
    masses[draw(st.integers(0, num_domains - 1))] += 0.1
    return masses / masses.sum()


def plans(sampler, weights, num_steps, state=None):
    """Plan ``num_steps`` batches, from the start or from ``state``."""
    state = state or sampler.init()
    planned = []
    for _ in range(num_steps):
        planned.append(sampler.plan(state, weights))
        state = planned[-1].state_after
    return planned


def plans_until_exhausted(sampler, weights):
    planned, state = [], sampler.init()
    with suppress(ExhaustedError):
        while True:
            planned.append(sampler.plan(state, weights))
            state = planned[-1].state_after
    return planned


@given(seed=seeds, method=methods, weights=mixtures(4), max_epochs=st.sampled_from([None, 1.5]))
def test_advancing_leads_to_the_state_after_a_plan(seed, method, weights, max_epochs):
    sizes = np.array([3, 5, 11, 40])
    sampler = MixtureSampler(
        sizes, global_batch_size=4, seed=seed, method=method, max_epochs=max_epochs
    )
    state = sampler.init()
    with suppress(ExhaustedError):
        for _ in range(12):
            expected = sampler.plan(state, weights).state_after
            state = sampler.advance(state, weights)
            assert state.step == expected.step
            np.testing.assert_array_equal(state.cursors, expected.cursors)


def windows_by_domain(planned) -> dict[int, list[int]]:
    order = defaultdict(list)
    for plan in planned:
        rows = zip(plan.selection.domains, plan.selection.sequences, strict=True)
        for domain, sequence in rows:
            order[int(domain)].append(int(sequence))
    return order


def assert_whole_epochs(order, sizes):
    """Every full epoch holds each window once, and the last one none twice."""
    for domain, sequences in order.items():
        size = int(sizes[domain])
        for start in range(0, len(sequences), size):
            epoch = sequences[start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(size))


def assert_same_plan(one, other):
    np.testing.assert_array_equal(one.selection.domains, other.selection.domains)
    np.testing.assert_array_equal(one.selection.sequences, other.selection.sequences)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.state_after.cursors, other.state_after.cursors)
    assert one.state_after.step == other.state_after.step


@given(data=st.data(), seed=seeds, method=methods, batch_size=st.integers(1, 40))
def test_every_window_is_drawn_once_per_epoch_under_changing_weights(
    data, seed, method, batch_size
):
    sizes = np.array(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5)))
    sampler = MixtureSampler(sizes, global_batch_size=batch_size, seed=seed, method=method)
    planned, state = [], sampler.init()
    for weights in data.draw(st.lists(mixtures(sizes.size), min_size=1, max_size=8)):
        planned.append(sampler.plan(state, weights))
        state = planned[-1].state_after
    order = windows_by_domain(planned)
    assert_whole_epochs(order, sizes)
    drawn = [len(order[domain]) for domain in range(sizes.size)]
    np.testing.assert_array_equal(state.cursors, drawn)
    assert state.step == len(planned)
    np.testing.assert_allclose(sampler.epochs(state), drawn / sizes)


@given(data=st.data(), seed=seeds, batch_size=st.integers(1, 300), cap=st.booleans())
def test_realised_shares_are_within_one_row_of_the_weights(data, seed, batch_size, cap):
    num_domains = data.draw(st.integers(1, 12))
    sizes = np.array(data.draw(st.lists(st.integers(200, 999), min_size=12, max_size=12)))
    sampler = MixtureSampler(
        sizes[:num_domains],
        global_batch_size=batch_size,
        seed=seed,
        max_epochs=8.0 if cap else None,
    )
    weights = data.draw(mixtures(num_domains))
    for plan in plans(sampler, weights, 4):
        counts = np.bincount(plan.selection.domains, minlength=num_domains)
        assert (np.abs(counts / batch_size - plan.weights) <= 1 / batch_size + 1e-12).all()


@given(data=st.data(), seed=seeds, method=methods, batch_size=st.integers(1, 100))
def test_domains_without_weight_are_never_drawn(data, seed, method, batch_size):
    num_domains = data.draw(st.integers(1, 12))
    weights = data.draw(mixtures(num_domains))
    sampler = MixtureSampler(
        np.full(num_domains, 7), global_batch_size=batch_size, seed=seed, method=method
    )
    for plan in plans(sampler, weights, 4):
        assert (weights[plan.selection.domains] > 0.0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_any_number_of_ranks_trains_on_the_same_plan(method, world_size):
    sizes, weights = np.array([50, 3, 1000]), np.array([0.5, 0.1, 0.4])

    def sampler():  # each rank builds its own
        return MixtureSampler(sizes, global_batch_size=32, seed=11, method=method)

    alone = plans(sampler(), weights, 5)
    pooled = [np.full((2, 32), -1) for _ in alone]
    for rank in range(world_size):
        rows = rank_rows(32, rank=rank, world_size=world_size, micro_batch_size=2)
        for step, plan in enumerate(plans(sampler(), weights, 5)):
            pooled[step][0, rows] = plan.selection.domains[rows]
            pooled[step][1, rows] = plan.selection.sequences[rows]
    for plan, (domains, sequences) in zip(alone, pooled, strict=True):
        np.testing.assert_array_equal(domains, plan.selection.domains)
        np.testing.assert_array_equal(sequences, plan.selection.sequences)


@given(
    data=st.data(),
    seed=seeds,
    method=methods,
    batch_size=st.integers(1, 20),
    max_epochs=st.floats(0.1, 3.0),
)
def test_the_cap_on_repetitions_holds_until_the_data_is_used_up(
    data, seed, method, batch_size, max_epochs
):
    sizes = np.array(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5)))
    weights = data.draw(mixtures(sizes.size))
    sampler = MixtureSampler(
        sizes, global_batch_size=batch_size, seed=seed, method=method, max_epochs=max_epochs
    )
    most = np.floor(max_epochs * sizes)
    planned = plans_until_exhausted(sampler, weights)
    for plan in planned:
        assert (plan.state_after.cursors <= most).all()
        assert plan.weights.sum() == pytest.approx(1.0, abs=1e-9)
    state = planned[-1].state_after if planned else sampler.init()
    assert (most - state.cursors)[weights > 0.0].sum() < batch_size
    assert (state.cursors[weights == 0.0] == 0).all()
    assert_whole_epochs(windows_by_domain(planned), sizes)


def test_the_plan_has_the_capped_weights():
    sampler = MixtureSampler(np.array([3, 100, 100]), global_batch_size=8, seed=0, max_epochs=1.0)
    # The first expects 4 of 8 rows and has 3; the other 5 are shared as 1 to 3.
    plan = sampler.plan(sampler.init(), np.array([0.5, 0.125, 0.375]))
    np.testing.assert_allclose(plan.weights * 8, [3, 1.25, 3.75], rtol=1e-15)
    assert np.bincount(plan.selection.domains)[0] == 3


def test_a_cap_that_does_not_bind_changes_no_bit():
    sizes, weights = np.array([50, 70, 90]), np.array([0.3, 0.3, 0.4])
    capped = MixtureSampler(sizes, global_batch_size=9, seed=4, max_epochs=5.0)
    free = MixtureSampler(sizes, global_batch_size=9, seed=4)
    for one, other in zip(plans(capped, weights, 20), plans(free, weights, 20), strict=True):
        assert_same_plan(one, other)


def test_an_exhausted_sampler_reports_the_shortage():
    sampler = MixtureSampler(np.array([3, 9]), global_batch_size=2, seed=0, max_epochs=1.0)
    with pytest.raises(
        ExhaustedError,
        match=r"step 2: expected 2 sequences for a batch, found 1 left under max_epochs in the "
        r"domains with a weight > 0",
    ):
        plans(sampler, np.array([1.0, 0.0]), 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_continues_within_an_epoch(method):
    sizes, weights = np.array([17, 5, 1000]), np.array([0.5, 0.3, 0.2])

    def sampler():
        return MixtureSampler(sizes, global_batch_size=6, seed=2, method=method, max_epochs=9.0)

    uninterrupted = plans(sampler(), weights, 12)
    saved = uninterrupted[4].state_after
    restored = SamplerState(step=saved.step, cursors=np.array(saved.cursors.tolist()))
    resumed = plans(sampler(), weights, 7, restored)
    for one, other in zip(uninterrupted[5:], resumed, strict=True):
        assert_same_plan(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_planning_changes_nothing_and_can_be_repeated(method):
    sampler = MixtureSampler(np.array([7, 5]), global_batch_size=4, seed=2, method=method)
    state, weights = plans(sampler, np.array([0.5, 0.5]), 3)[-1].state_after, np.array([0.9, 0.1])
    cursors = state.cursors.copy()
    assert_same_plan(sampler.plan(state, weights), sampler.plan(state, weights))
    np.testing.assert_array_equal(state.cursors, cursors)
    np.testing.assert_array_equal(weights, [0.9, 0.1])


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_another_batch(method):
    one, other = (
        plans(
            MixtureSampler(np.full(4, 2**40), global_batch_size=64, seed=seed, method=method),
            np.full(4, 0.25),
            1,
        )[0]
        for seed in (0, 1)
    )
    assert np.intersect1d(one.selection.sequences, other.selection.sequences).size == 0
    assert (one.selection.domains != other.selection.domains).any()


def test_every_row_of_a_batch_is_a_draw_from_the_mixture():
    # Without shuffling, row 0 would always be of the first domain. Six standard errors.
    weights, num_steps = np.array([0.25, 0.5, 0.25]), 1000
    sampler = MixtureSampler(np.full(3, 10**6), global_batch_size=4, seed=0)
    domains = np.array([plan.selection.domains for plan in plans(sampler, weights, num_steps)])
    for row in range(4):
        shares = np.bincount(domains[:, row], minlength=3) / num_steps
        errors = np.sqrt(weights * (1 - weights) / num_steps)
        assert (np.abs(shares - weights) < 6 * errors).all()


def test_rare_domains_get_their_share_over_the_steps():
    # Expecting a hundredth of a row per batch, independent draws would be off by about
    # sqrt(10) = 3.2 rows after 1000 steps. The offsets' discrepancy is of the order of log(steps).
    weights = np.full(800, 1 / 800)
    sampler = MixtureSampler(np.full(800, 10**6), global_batch_size=8, seed=0)
    cursors = plans(sampler, weights, 1000)[-1].state_after.cursors
    assert np.abs(cursors - 10).max() <= 3


def test_offsets_fill_the_interval_without_drifting():
    # Of n steps of the golden ratio, no interval holds more than n times its length plus O(log n).
    for start in (0, 10**12, 2**62):
        offsets = np.array([kronecker_offset(3, step) for step in range(start, start + 1000)])
        assert offsets.min() >= 0.0
        assert offsets.max() < 1.0
        assert np.abs(np.histogram(offsets, bins=10, range=(0, 1))[0] - 100).max() <= 4


@pytest.mark.parametrize("method", METHODS)
def test_one_domain_and_one_row_are_enough(method):
    sampler = MixtureSampler(np.array([1]), global_batch_size=1, seed=0, method=method)
    planned = plans(sampler, np.array([1.0]), 3)
    assert windows_by_domain(planned) == {0: [0, 0, 0]}
    np.testing.assert_array_equal(sampler.epochs(planned[-1].state_after), [3.0])


@pytest.mark.parametrize("method", METHODS)
def test_negligible_weights_are_handled(method):
    weights = np.array([1e-320, 1.0 - 1e-10, 1e-10, 0.0])
    sampler = MixtureSampler(
        np.array([1, 10, 2**40, 1]), global_batch_size=64, seed=0, method=method
    )
    for plan in plans(sampler, weights, 20):
        np.testing.assert_array_equal(plan.selection.domains, 1)


def test_domains_of_2_to_the_40_windows_are_shuffled_whole():
    size = 2**40
    sampler = MixtureSampler(np.array([size, size]), global_batch_size=1000, seed=1)
    state = SamplerState(step=10**9, cursors=np.array([3 * size - 250, 5]))
    plan = sampler.plan(state, np.array([0.5, 0.5]))
    first = plan.selection.sequences[plan.selection.domains == 0]
    assert np.unique(first).size == 500
    assert first.min() >= 0
    assert size // 2 < first.max() < size
    np.testing.assert_array_equal(plan.state_after.cursors, [3 * size + 250, 505])


@pytest.mark.parametrize("method", METHODS)
def test_hundreds_of_thousands_of_domains_share_a_batch(method):
    num_domains, batch_size = 262_144, 1024
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 2**20, num_domains)
    weights = rng.dirichlet(np.full(num_domains, 0.05))
    sampler = MixtureSampler(
        sizes, global_batch_size=batch_size, seed=1, method=method, max_epochs=2.0
    )
    planned = list(plans(sampler, weights, 3))
    for plan in planned:
        domains, sequences = plan.selection.domains, plan.selection.sequences
        assert domains.shape == sequences.shape == (batch_size,)
        assert (plan.weights[domains] > 0.0).all()
        assert ((sequences >= 0) & (sequences < sizes[domains])).all()
        assert (plan.state_after.cursors <= 2 * sizes).all()
        if method == "systematic":
            counts = np.bincount(domains, minlength=num_domains)
            assert np.abs(counts - batch_size * plan.weights).max() <= 1 + 1e-6
    assert planned[-1].state_after.cursors.sum() == 3 * batch_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": np.array([4, 0])}, r"sizes: expected 1 <= size <= 2\*\*62, found 0 at index 1"),
        ({"sizes": np.zeros(0)}, r"sizes: expected shape \(K,\) with K >= 1"),
        ({"global_batch_size": 0}, "global_batch_size: expected at least 1, found 0"),
        ({"seed": -1}, "seed: expected"),
        ({"method": "sytematic"}, "method: expected one of .*, found 'sytematic'"),
        ({"max_epochs": 0.0}, "max_epochs: expected a finite number > 0, found 0.0"),
        ({"max_epochs": float("inf")}, "max_epochs: expected"),
        ({"max_epochs": float("nan")}, "max_epochs: expected"),
    ],
)
def test_an_argument_out_of_range_is_named(change, message):
    arguments = {"sizes": np.array([4, 4]), "global_batch_size": 2, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        MixtureSampler(arguments.pop("sizes"), **arguments)


def test_weights_and_states_of_other_domains_are_refused():
    sampler = MixtureSampler(np.array([4, 4]), global_batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"weights: expected shape \(2,\), found \(3,\)"):
        sampler.plan(sampler.init(), np.full(3, 1 / 3))
    with pytest.raises(ValueError, match=r"cursors: expected shape \(2,\), found \(1,\)"):
        sampler.plan(SamplerState(0, np.zeros(1, dtype=np.int64)), np.full(2, 0.5))
    with pytest.raises(ValueError, match="weights: expected a sum of 1"):
        sampler.plan(sampler.init(), np.full(2, 0.4))
