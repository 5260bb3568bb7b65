"""Batches are what the weights say, whatever was read ahead of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from megadga.arrays import FloatArray, IntArray
from megadga.data.folder import DomainSource, open_domains
from megadga.data.reader import read_windows
from megadga.data.sampler import MixtureSampler
from megadga.errors import ExhaustedError
from megadga.plugin.batches import BatchIndices, BatchLoader, Sampling
from tests.support.shards import write_domain
from tests.support.streams import counting_domain
from tests.unit.train.fakes import FakeEngine, LoneRank

S, B, SEED = 4, 8, 3
SHARED = np.array([0.5, 0.3, 0.2])


@dataclass
class Watched:
    """A domain that notes which of its windows are read, and in which thread."""

    domain: Any
    read: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.domain, name)

    def windows(self, indices: IntArray) -> IntArray:
        self.read.extend(indices.tolist())
        self.threads.add(threading.current_thread().name)
        return self.domain.windows(indices)


@pytest.fixture
def domains(tmp_path):
    for index, tokens in enumerate((401, 201, 101)):
        counting_domain(tmp_path / f"d{index}", [tokens], start=1000 * index, shard_tokens=500)
    return [Watched(d) for d in open_domains(tmp_path, split="train", sequence_length=S)]


def source(domains: Any, **options: Any) -> BatchLoader:
    engine = FakeEngine(accumulation=2, micro_batch_size=B // 2)
    return BatchLoader(engine, domains, Sampling(SEED, **options), collective=LoneRank())


def taken(
    batches: BatchLoader,
    steps: int,
    *,
    interval: int,
    weights: Callable[[int], FloatArray],
    expected: Callable[[int], FloatArray] | None = None,
) -> list[IntArray]:
    """The tokens of some steps: ``weights(n)`` hold after update ``n``."""
    found: list[IntArray] = []
    for _ in range(steps):
        now = weights(batches.state.step // interval)
        batch = batches.next_batch(
            now,
            lambda step: step % interval == 0,
            (lambda _, now=now: now) if expected is None else expected,
        )
        found.append(batch.tokens.numpy())
    return found


def without_reading_ahead(
    domains: Any, steps: int, *, interval: int, weights: Callable[[int], FloatArray]
) -> list[IntArray]:
    sizes = np.array([domain.num_sequences for domain in domains])
    sampler = MixtureSampler(sizes, global_batch_size=B, seed=SEED)
    state, found = sampler.init(), []
    for _ in range(steps):
        plan = sampler.plan(state, weights(state.step // interval))
        plain = [domain.domain for domain in domains]
        found.append(read_windows(plain, plan.selection).reshape(2, B // 2, S + 1))
        state = plan.state_after
    return found


def drifting(update: float) -> FloatArray:
    weights = SHARED * np.exp(0.3 * update * np.array([0.0, 1.0, -1.0]))
    return weights / weights.sum()


def jumping(update: int) -> FloatArray:
    return np.roll(np.array([0.9, 0.05, 0.05]), update)


@pytest.mark.parametrize("weights", [drifting, jumping, lambda update: SHARED])
@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_batches_are_those_that_would_be_read_one_by_one(domains, weights, interval, prefetch):
    batches = source(domains, prefetch=prefetch)

    found = taken(batches, 11, interval=interval, weights=weights)

    expected = without_reading_ahead(domains, 11, interval=interval, weights=weights)
    assert np.array_equal(found, expected)
    batches.close()


@pytest.mark.parametrize("interval", [1, 3])
def test_predicted_weights_have_every_window_prefetched_once(domains, interval):
    batches = source(domains)

    taken(
        batches,
        7,
        interval=interval,
        weights=drifting,
        expected=lambda step: drifting(step // interval),
    )
    batches.close()

    for domain in domains:
        assert len(domain.read) == len(set(domain.read))


def test_the_batch_after_an_update_is_prefetched_speculatively(domains):
    batches = source(domains)
    taken(batches, 1, interval=1, weights=lambda _: SHARED)

    until = time.monotonic() + 10.0
    while sum(len(domain.read) for domain in domains) < 2 * B:
        assert time.monotonic() < until
        time.sleep(0.001)

    batches.close()


def test_small_weight_changes_need_few_rereads(domains):
    batches = source(domains)

    taken(batches, 9, interval=1, weights=lambda update: drifting(update / 10))
    batches.close()

    read = [(index, window) for index, d in enumerate(domains) for window in d.read]
    assert len(read) - len(set(read)) <= 9
    assert len(read) <= 9 * B + B + 9


def test_one_thread_reads_across_all_intervals(domains):
    batches = source(domains)
    taken(batches, 9, interval=1, weights=jumping)
    batches.close()
    assert len(set.union(*(domain.threads for domain in domains))) == 1


def test_a_speculative_plan_beyond_the_data_raises_only_for_its_batch(domains):
    batches = source(domains, max_epochs=1.0)  # 175 windows: 21 batches of 8
    uniform = np.array([100, 50, 25]) / 175

    assert len(taken(batches, 21, interval=1, weights=lambda _: uniform)) == 21
    with pytest.raises(ExhaustedError, match="step 22"):
        taken(batches, 1, interval=1, weights=lambda _: uniform)
    batches.close()


def test_a_seek_drops_prefetched_batches(domains):
    batches = source(domains)
    begin = batches.state
    first = taken(batches, 3, interval=2, weights=drifting)

    batches.seek(begin)

    assert np.array_equal(taken(batches, 3, interval=2, weights=drifting), first)
    batches.close()


def test_prefetch_must_be_positive(domains):
    with pytest.raises(ValueError, match="prefetch: expected at least 1, found 0"):
        source(domains, prefetch=0)


def test_the_plan_has_the_targets_of_the_global_batch_where_they_differ(tmp_path, domains):
    shared = np.array([0.5, 0.5])
    write_domain(tmp_path / "chat", seed=1, chat=True, num_documents=90)
    (chat,) = open_domains(
        [DomainSource("chat", tmp_path / "chat")],
        split="train",
        sequence_length=S,
        chat={"chat"},
    )
    text, other = (watched.domain for watched in domains[:2])
    texts, mixed = source([text, other]), source([text, chat])

    assert texts.next_indices(shared).global_targets is None
    assert texts.next_indices(shared).sequence_weights() is None
    for indices in (mixed.next_indices(shared), mixed.next_indices(shared)):
        targets, weights = indices.global_targets, indices.sequence_weights()
        assert targets is not None
        assert weights is not None
        of_chat = indices.global_domains == 1
        assert targets[~of_chat].tolist() == [S] * 4
        flat = indices.sequences.ravel()[np.argsort(indices.rows.ravel())]
        tokens = chat.windows(flat[of_chat])
        assert targets[of_chat].tolist() == (tokens[:, 1:] >= 0).sum(axis=1).tolist()
        assert np.ptp(targets) > 0
        assert weights.tolist() == (targets / targets.mean()).tolist()


def weights_of(indices: BatchIndices) -> FloatArray:
    weights = indices.sequence_weights()
    assert weights is not None
    return weights


def test_with_an_objective_sequences_count_by_its_weights_over_those_of_the_sampling(domains):
    objective, sampled = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.25, 0.25])
    batches = source(domains, objective=objective)
    batch = batches.next_indices(sampled)
    expected = np.array([0.4, 1.2, 2.0])[batch.global_domains]
    np.testing.assert_allclose(weights_of(batch), expected, rtol=1e-15)


def test_domains_count_as_the_objective_says_on_average_over_batches(domains):
    objective, sampled = np.array([0.1, 0.2, 0.7]), np.array([0.53, 0.29, 0.18])
    batches = source(domains, objective=objective)
    totals, number = np.zeros(3), 400
    for _ in range(number):
        indices = batches.next_indices(sampled)
        totals += np.bincount(indices.global_domains, weights=weights_of(indices))
    np.testing.assert_allclose(totals / (number * B), objective, rtol=0.005)


def test_after_a_domain_is_exhausted_the_weights_are_over_those_of_the_others(domains):
    objective = np.full(3, 1 / 3)
    batches = source(domains, objective=objective, max_epochs=1.0)
    sampled = np.array([0.1, 0.1, 0.8])  # of 25 windows of the last, 6 or 7 a batch
    *_, last = (batches.next_indices(sampled) for _ in range(6))
    assert set(last.global_domains.tolist()) == {0, 1}
    np.testing.assert_allclose(weights_of(last), (1 / 3) / 0.5, rtol=1e-12)


def test_an_objective_holds_in_targets_where_sequences_have_different_numbers_of_them():
    targets = np.array([10, 30, 8, 8, 2])
    indices = BatchIndices(
        step=1,
        domains=np.zeros((1, 5), np.int64),
        sequences=np.zeros((1, 5), np.int64),
        rows=np.arange(5)[None],
        global_domains=np.array([0, 0, 1, 1, 1]),
        global_sequences=np.zeros(5, np.int64),
        global_targets=targets,
        global_factors=np.array([0.5, 0.5, 1.25, 1.25, 1.25]),
    )
    weights = weights_of(indices)
    # Each domain's sequences share its 2 * 0.5 and 3 * 1.25 by their numbers of targets.
    expected = [0.25, 0.75, 3.75 * 8 / 18, 3.75 * 8 / 18, 3.75 * 2 / 18]
    np.testing.assert_allclose(weights, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (np.array([0.5, 0.5]), r"objective: expected shape \(3,\), found \(2,\)"),
        (np.array([0.5, 0.5, 0.5]), "sum"),
    ],
)
def test_what_is_no_mixture_of_the_domains_is_no_objective(domains, objective, message):
    with pytest.raises(ValueError, match=message):
        source(domains, objective=objective)
