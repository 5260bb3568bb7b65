import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.shards.domain import Domain
from megadga.shards.folder import open_domains
from megadga.shards.manifest import TokenizerIdentity
from megadga.shards.reader import BatchReader, read_windows
from tests.support.opens import watched_opens
from tests.support.streams import counting_domain, grouped_folder

S = 4


@dataclass(frozen=True)
class Rows:
    domains: IntArray
    sequences: IntArray


@dataclass(frozen=True)
class Plan:
    step: int
    selection: Rows


@dataclass(frozen=True)
class Padded:
    """A set that keeps the first token of each window of a domain."""

    domain: Domain

    @property
    def name(self) -> str:
        return "padded"

    @property
    def folder(self) -> Path:
        return self.domain.folder

    @property
    def tokenizer(self) -> TokenizerIdentity:
        return self.domain.tokenizer

    @property
    def sequence_length(self) -> int:
        return S

    @property
    def num_documents(self) -> int:
        return self.domain.num_documents

    @property
    def num_tokens(self) -> int:
        return self.domain.num_tokens

    @property
    def num_sequences(self) -> int:
        return self.domain.num_sequences

    def windows(self, indices: IntArray) -> IntArray:
        windows = self.domain.windows(indices)
        windows[:, 1:] = -1
        return windows

    def num_targets(self, indices: IntArray) -> IntArray:
        return np.ones_like(indices)


@pytest.fixture
def domains(tmp_path):
    """Two domains of 50 windows each: window j starts with 4j and with 1000 + 4j."""
    counting_domain(tmp_path / "a", [201], shard_tokens=50)
    counting_domain(tmp_path / "b", [100, 101], start=1000, shard_tokens=50)
    return open_domains(tmp_path, split="train", sequence_length=S)


def make_plan(step: int) -> Plan:
    return Plan(step, Rows(np.array([0, 1, 1, 0]), np.array([0, 1, 2, 3]) + step))


def make_plans(count: int, taken: list[int]) -> Iterator[Plan]:
    for step in range(count):
        taken.append(step)
        yield make_plan(step)


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "megadga-reader" in thread.name]


def test_rows_come_in_the_order_of_the_selection(domains):
    tokens = read_windows(domains, Rows(np.array([1, 0, 1]), np.array([7, 3, 0])))
    assert tokens[:, 0].tolist() == [1028, 12, 1000]
    assert tokens[1].tolist() == [12, 13, 14, 15, 16]


def test_domains_that_share_shards_are_read_together(tmp_path):
    domains = {f"c{index:03d}": [S + 1] for index in range(200)}
    folder = grouped_folder(tmp_path / "grouped", {"train": domains}, shard_tokens=100)
    opened = open_domains(folder, split="train", sequence_length=S)
    order = np.random.default_rng(0).permutation(200)
    with watched_opens() as paths:
        tokens = read_windows(opened, Rows(order, np.zeros(200, dtype=np.int64)))
    assert tokens[:, 0].tolist() == (order * (S + 1)).tolist()
    assert sorted(paths) == [f"{folder}/train-{index:05d}.bin" for index in range(10)]


def test_sets_that_cut_their_own_sequences_are_read_beside_domains(domains):
    padded = Padded(domains[1])
    rows = Rows(np.array([1, 0, 1]), np.array([7, 3, 0]))
    tokens = read_windows([domains[0], padded], rows)
    assert tokens.tolist() == [[1028, -1, -1, -1, -1], [12, 13, 14, 15, 16], [1000, *[-1] * 4]]


def test_an_empty_selection_gives_no_rows(domains):
    none = np.empty(0, dtype=np.int64)
    assert read_windows(domains, Rows(none, none)).shape == (0, S + 1)


def test_a_domain_that_does_not_exist_is_refused(domains):
    with pytest.raises(IndexError, match=r"expected domains in \[0, 2\), found -1 to 1"):
        read_windows(domains, Rows(np.array([1, -1]), np.array([0, 0])))


def test_a_rank_reads_its_rows_in_their_shape(domains):
    reader = BatchReader(domains, rows=np.array([[3], [1]]))
    ((plan, tokens),) = reader.stream([make_plan(5)])
    assert plan.step == 5
    assert tokens.shape == (2, 1, S + 1)
    assert tokens[:, 0, 0].tolist() == [32, 1024]


def test_batches_come_in_order_and_end_with_the_plans(domains):
    reader = BatchReader(domains, rows=np.arange(4))
    batches = list(reader.stream(make_plans(9, [])))
    assert [plan.step for plan, _ in batches] == list(range(9))
    for plan, tokens in batches:
        assert (tokens == read_windows(domains, plan.selection)).all()
    assert reading_threads() == []


@pytest.mark.parametrize("prefetch", [1, 3])
def test_never_more_than_prefetch_plans_are_taken_ahead(domains, prefetch):
    taken: list[int] = []
    reader = BatchReader(domains, rows=np.arange(4), prefetch=prefetch)
    for count, _ in enumerate(reader.stream(make_plans(9, taken)), start=1):
        assert len(taken) == min(count + prefetch, 9)


def test_reading_happens_beside_the_consumer(domains):
    reader = BatchReader(domains, rows=np.arange(4))
    stream = reader.stream(make_plans(9, []))
    next(stream)
    assert len(reading_threads()) == 1
    list(stream)


def test_closing_early_leaves_no_thread(domains):
    stream = BatchReader(domains, rows=np.arange(4)).stream(make_plans(1000, []))
    next(stream)
    stream.close()
    assert reading_threads() == []


def test_leaving_a_loop_early_leaves_no_thread(domains):
    for _ in BatchReader(domains, rows=np.arange(4)).stream(make_plans(1000, [])):
        break
    assert reading_threads() == []


@pytest.mark.usefixtures("domains")
def test_an_error_while_reading_surfaces_as_itself_at_its_own_batch(tmp_path):
    tokens = tmp_path / "a" / "train-00000.bin"
    content = np.fromfile(tokens, dtype=np.uint16)
    content[4 * 6 + 1] = 50_000  # in window 6 of domain a: plans 3 (row 3) and 6 (row 0)
    tokens.write_bytes(content.tobytes())
    domains = open_domains(tmp_path, split="train", sequence_length=S)
    stream = BatchReader(domains, rows=np.arange(4)).stream(make_plans(9, []))
    assert [next(stream)[0].step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ShardError, match=f"{tokens}: token 25: expected an id in .0, 50000"):
        next(stream)
    assert reading_threads() == []


def test_an_error_of_the_plans_surfaces_as_itself(domains):
    def exhausted():
        yield make_plan(0)
        raise LookupError("no plan left")

    with pytest.raises(LookupError, match="no plan left"):
        list(BatchReader(domains, rows=np.arange(4)).stream(exhausted()))
    assert reading_threads() == []


def test_prefetch_must_be_positive(domains):
    with pytest.raises(ValueError, match="prefetch: expected at least 1, found 0"):
        BatchReader(domains, rows=np.arange(4), prefetch=0)
