"""A mixture whose windows are drawn again by their norms: what is drawn, and after a resume."""

import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.mixers.base import Scheduler
from megadga.mixers.carrying import MixtureChange
from megadga.mixers.gradient_norm import GradientNorm
from megadga.mixers.odm import Odm
from megadga.plugin import BatchIndices, MixturePlugin, Sampling
from tests.unit.plugin.test_mixture import B
from tests.unit.train.fakes import FakeEngine

INTERVAL = 3


@pytest.fixture
def streams(domains):
    return [each.domain for each in domains]


def plugin(group, domains, *, rule: Scheduler | None = None, order=None, objective=None):
    engine = FakeEngine(accumulation=2, micro_batch_size=B // 2)
    engine.data_parallel_group = group
    return MixturePlugin(
        engine,
        domains,
        None,
        rule or GradientNorm(np.full(len(domains), 1 / len(domains))),
        sampling=Sampling(seed=1, resampled_uniformly=0.1, order=order, objective=objective),
        interval=INTERVAL,
    )


def norms_of(indices: BatchIndices) -> np.ndarray:
    """A window's norm: large for every tenth one, and another in every step."""
    large = indices.global_sequences % 10 == 0
    return np.where(large, 1.0, 0.01) + 1e-4 * (indices.step % 7)


def train(mixture: MixturePlugin, steps: int, *, reads: bool = True) -> list[BatchIndices]:
    drawn: list[BatchIndices] = []
    for _ in range(steps):
        indices = mixture.next_batch().indices if reads else mixture.next_indices()
        domains = indices.global_domains
        losses = 1.0 + domains.astype(np.float64)
        mixture.observe_losses(domains, losses, output_norms=norms_of(indices))
        mixture.after_step(indices.step)
        drawn.append(indices)
    return drawn


def factors_of(indices: BatchIndices) -> FloatArray:
    assert indices.global_factors is not None
    return indices.global_factors


def as_lists(drawn: list[BatchIndices]):
    arrays = [(i.global_domains, i.global_sequences, i.global_factors) for i in drawn]
    return [[None if array is None else array.tolist() for array in each] for each in arrays]


def test_after_an_epoch_windows_of_large_norms_are_drawn_more_often_and_count_less(group, streams):
    mixture = plugin(group, streams[:1])  # of 100 windows, 8 in a step
    drawn = train(mixture, 100)
    mixture.close()

    first = np.concatenate([indices.global_sequences for indices in drawn[:12]])
    assert len(set(first.tolist())) == 96  # of 100: one epoch has 12.5 batches
    later = np.concatenate([indices.global_sequences for indices in drawn[15:]])
    factors = np.concatenate([factors_of(indices) for indices in drawn[15:]])
    # q is 1.0 of 10 windows and 0.01 of 90: 0.9 10 / 10.9 + 0.1 0.1 of draws go to the ten.
    share = 0.9 * 10 / 10.9 + 0.01
    large = later % 10 == 0
    error = (share * (1 - share) / later.size) ** 0.5
    assert abs(large.mean() - share) < 5 * error + 0.01  # norms differ by step by up to 6e-4
    np.testing.assert_allclose(factors[large], 1 / (100 * share / 10), rtol=0.05)


@pytest.mark.parametrize("stop", [20, 22])  # an update is due after 21
def test_a_resumed_run_draws_the_same_windows_to_the_bit(group, streams, stop):
    whole, first, second = (plugin(group, streams[:2]) for _ in range(3))
    expected = as_lists(train(whole, 60))
    assert as_lists(train(first, stop)) == expected[:stop]
    second.load_state_dict(first.state_dict())
    first.close()

    assert as_lists(train(second, 60 - stop)) == expected[stop:]

    for name in ("norms", "places", "observed"):
        saved = [each.state_dict()["window_norms"][name].numpy() for each in (whole, second)]
        np.testing.assert_array_equal(*saved)
    whole.close()
    second.close()


def test_batches_that_are_read_ahead_are_those_of_a_loop_that_reads_itself(group, streams):
    ahead, itself = plugin(group, streams[:2]), plugin(group, streams[:2])
    assert as_lists(train(ahead, 50)) == as_lists(train(itself, 50, reads=False))
    ahead.close()
    itself.close()


def test_a_windows_share_in_the_loss_is_times_that_of_its_domain_in_the_objective(group, streams):
    plain, other = (
        plugin(group, streams[:2], objective=objective)
        for objective in (None, np.array([0.25, 0.75]))
    )
    seen: list[float] = []
    for _ in range(40):
        weights = plain.weights
        (alone,), (both,) = train(plain, 1), train(other, 1)
        own = factors_of(alone)
        expected = own * (np.array([0.25, 0.75]) / weights)[alone.global_domains]
        np.testing.assert_allclose(factors_of(both), expected, rtol=1e-14)
        seen += own.tolist()
    assert min(seen) < 0.5
    assert max(seen) > 2.0
    plain.close()
    other.close()


def test_norms_go_on_when_domains_leave_and_enter(group, streams):
    before = plugin(group, streams[:2])
    train(before, 31)
    state = before.state_dict()
    before.close()
    sources, chosen = np.array([-1, 1]), [streams[2], streams[1]]
    sizes = np.array([each.num_sequences for each in chosen])
    revised = before.order.revised(before.cursors, sources, sizes)
    after = plugin(group, chosen, order=revised.order)

    change = MixtureChange(sources, 2, np.array([0.5, 0.0]), step=31)
    after.load_revised_state_dict(state, change, cursors=revised.cursors, same_measurement=True)

    saved = state["window_norms"]
    expected = saved["norms"].numpy().copy()
    expected[saved["places"].numpy()] = saved["observed"].numpy()
    found = after.state_dict()["window_norms"]["norms"].numpy()
    assert np.isnan(found[:100]).all()
    np.testing.assert_array_equal(found[100:], expected[100:])
    train(after, 5)
    after.close()


def test_rules_domains_and_losses_that_windows_cannot_be_drawn_by_are_refused(
    group, domains, streams
):
    with pytest.raises(ValueError, match=r"expected a scheduler that observes output_norms.*Odm"):
        plugin(group, streams, rule=Odm(np.full(3, 1 / 3)))
    with pytest.raises(ValueError, match="expected domains that are streams"):
        plugin(group, domains)
    mixture = plugin(group, streams)
    indices = mixture.next_indices()
    others = (indices.global_domains + 1) % 3
    with pytest.raises(ValueError, match="expected the domains of the last batch"):
        mixture.observe_losses(others, np.ones(B), output_norms=np.ones(B))
    with pytest.raises(ValueError, match=r"expected norms of the loss's gradient.*found None"):
        mixture.observe_losses(indices.global_domains, np.ones(B))
    mixture.close()
