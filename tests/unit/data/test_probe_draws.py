import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.probe_draws import ProbeSampler
from megadga.data.sampler import MixtureSampler
from tests.support.examples import examples


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_every_window_is_probed_before_one_repeats(sizes, count, seed, data):
    domain = data.draw(st.integers(0, len(sizes) - 1))
    sampler = ProbeSampler(np.array(sizes), seed=seed)
    num_updates = 3 * sizes[domain] // count + 1
    draws = [sampler.draw(update, domain, count) for update in range(num_updates)]
    assert {tuple(draw.domains) for draw in draws} == {(domain,) * count}
    stream = np.concatenate([draw.sequences for draw in draws])[: 3 * sizes[domain]]
    for epoch in stream.reshape(3, sizes[domain]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(sizes[domain]))


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    update=st.integers(0, 50),
    count=st.integers(1, 20),
    data=st.data(),
)
def test_what_is_drawn_of_many_domains_at_once_is_what_each_has_alone(sizes, update, count, data):
    domains = data.draw(st.lists(st.integers(0, len(sizes) - 1)))
    sampler = ProbeSampler(np.array(sizes), seed=5)

    found = sampler.draw_each(update, np.array(domains, dtype=np.int64), count)

    alone = [sampler.draw(update, domain, count) for domain in domains]
    assert found.domains.tolist() == [each for one in alone for each in one.domains.tolist()]
    assert found.sequences.tolist() == [each for one in alone for each in one.sequences.tolist()]


def test_a_draw_depends_only_on_its_address():
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


def mixed(sampler, update, count, domains, shares, mixture=0):
    return sampler.draw_mixture(
        update, mixture, count, domains=np.array(domains), shares=np.array(shares)
    )


def test_a_mixture_of_one_domain_draws_what_the_domain_does():
    sampler = ProbeSampler(np.array([7, 1000]), seed=5)
    for update in range(20):
        found, plain = mixed(sampler, update, 3, [1], [1.0]), sampler.draw(update, 1, 3)
        np.testing.assert_array_equal(found.domains, plain.domains)
        np.testing.assert_array_equal(found.sequences, plain.sequences)


@given(
    masses=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=8),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_mixture_draws_each_domain_by_its_share_rounded_down_or_up(masses, count, seed):
    shares = np.array(masses) / sum(masses)
    domains = 2 * np.arange(shares.size) + 1
    sampler = ProbeSampler(np.full(20, 100), seed=seed)
    for update in range(5):
        drawn = mixed(sampler, update, count, domains, shares).domains
        assert drawn.size == count
        counts = np.bincount(drawn, minlength=20)
        assert (np.abs(counts[domains] - count * shares) < 1.0 + 1e-9).all()
        assert counts[domains].sum() == count


def test_over_updates_a_rare_domain_gets_its_share_of_a_mixture():
    # For a continued fraction of ones, N numbers are in an interval of length e up to
    # 3 + (1 / log(phi) + 1 / log(2)) log(N) more or less often than N e times (Kuipers and
    # Niederreiter, Uniform Distribution of Sequences, 1974, theorem 2.3.4).
    updates, phi = 400, (1 + np.sqrt(5)) / 2
    sampler, shares = ProbeSampler(np.full(3, 10_000), seed=5), np.array([0.7, 0.2, 0.1])
    drawn = [mixed(sampler, update, 4, [0, 1, 2], shares).domains for update in range(updates)]
    counts = np.bincount(np.concatenate(drawn), minlength=3)
    most = 3 + (1 / np.log(phi) + 1 / np.log(2)) * np.log(updates)
    assert (np.abs(counts - 4 * updates * shares) <= most).all()
    assert most < 4 * updates * shares[-1] / 5


@examples(0.25)
@given(share=st.floats(1e-4, 1.0, exclude_max=True), count=st.integers(1, 9), data=st.data())
def test_a_mixture_repeats_no_window_within_an_epoch_of_its_domains(share, count, data):
    # So long a domain that its epoch ends after the last of these updates.
    seed = data.draw(st.integers(0, 2**64 - 1))
    sampler = ProbeSampler(np.full(2, 10_000), seed=seed)
    drawn = [mixed(sampler, u, count, [0, 1], [share, 1.0 - share]) for u in range(100)]
    for domain in (0, 1):
        windows = np.concatenate([each.sequences[each.domains == domain] for each in drawn])
        assert np.unique(windows).size == windows.size


def test_mixtures_draw_their_rare_domains_in_different_updates():
    sampler = ProbeSampler(np.full(100, 50), seed=5)
    domains, shares = np.arange(100), np.full(100, 0.01)
    one, other = (mixed(sampler, 3, 10, domains, shares, mixture).domains for mixture in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("arguments", [(-1, 1, 0), (0, 0, 0), (0, 1, -1)])
def test_a_draw_from_a_mixture_with_a_number_out_of_range_is_refused(arguments):
    update, count, mixture = arguments
    with pytest.raises(ValueError, match="draw: expected update >= 0, mixture >= 0 and count"):
        mixed(ProbeSampler(np.array([3, 3]), seed=0), update, count, [0], [1.0], mixture)
