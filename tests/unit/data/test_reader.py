import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.arrays import IntArray
from megadga.data.domain import Domain
from megadga.data.folder import open_domains
from megadga.data.manifest import TokenizerIdentity
from megadga.data.reader import BatchReader, read_windows
from megadga.errors import ShardError
from tests.support.opens import watched_opens
from tests.support.streams import counting_domain, grouped_folder

S = 4


@dataclass(frozen=True)
class Rows:
    domains: IntArray
    sequences: IntArray


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


def make_plan(step: int) -> Rows:
    return Rows(np.array([0, 1, 1, 0]), np.array([0, 1, 2, 3]) + step)


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


@pytest.fixture
def reader(domains):
    """Reads all four rows of a plan."""
    reader = BatchReader(domains, rows=np.arange(4))
    yield reader
    reader.close()


def planned(step: int):
    return lambda: make_plan(step)


def test_a_rank_reads_its_rows_in_their_shape(domains):
    reader = BatchReader(domains, rows=np.array([[3], [1]]))
    tokens = reader.tokens(reader.submit(planned(5)))
    assert tokens.shape == (2, 1, S + 1)
    assert tokens[:, 0, 0].tolist() == [32, 1024]
    reader.close()


def test_batches_are_read_in_order_by_one_persistent_thread(domains, reader):
    readings = [reader.submit(planned(step)) for step in range(9)]
    for step, reading in enumerate(readings):
        assert (reader.tokens(reading) == read_windows(domains, make_plan(step))).all()
    (thread,) = reading_threads()
    reader.tokens(reader.submit(planned(9)))
    assert reading_threads() == [thread]


def test_closing_stops_the_thread_and_cancels_pending_reads(reader):
    readings = [reader.submit(planned(step % 40)) for step in range(1000)]
    reader.close()
    assert reading_threads() == []
    assert readings[-1].cancelled()


def test_a_closed_reader_reads_again(domains, reader):
    reader.close()
    tokens = reader.tokens(reader.submit(planned(3)))
    assert (tokens == read_windows(domains, make_plan(3))).all()


@pytest.mark.usefixtures("domains")
def test_a_read_error_is_raised_for_its_own_batch(tmp_path):
    tokens = tmp_path / "a" / "train-00000.bin"
    content = np.fromfile(tokens, dtype=np.uint16)
    content[4 * 6 + 1] = 50_000  # in window 6 of domain a: plans 3 (row 3) and 6 (row 0)
    tokens.write_bytes(content.tobytes())
    domains = open_domains(tmp_path, split="train", sequence_length=S)
    reader = BatchReader(domains, rows=np.arange(4))
    readings = [reader.submit(planned(step)) for step in range(9)]
    for reading in readings[:3]:
        reader.tokens(reading)
    with pytest.raises(ShardError, match=f"{tokens}: token 25: expected an id in .0, 50000"):
        reader.tokens(readings[3])
    reader.close()


def test_an_error_while_planning_is_raised_unchanged(reader):
    def exhausted():
        raise LookupError("no plan left")

    with pytest.raises(LookupError, match="no plan left"):
        reader.tokens(reader.submit(exhausted))


@dataclass
class Watched:
    """A domain that notes which of its windows are read."""

    domain: Domain
    read: list[int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.domain, name)

    def windows(self, indices: IntArray) -> IntArray:
        self.read.extend(indices.tolist())
        return self.domain.windows(indices)


def rows_of(*windows: tuple[int, int]) -> Rows:
    return Rows(*np.array(windows).T)


def test_speculatively_read_windows_are_not_read_again(domains):
    read: tuple[list[int], list[int]] = ([], [])
    watched: Any = list(map(Watched, domains, read))
    reader = BatchReader(watched, rows=np.arange(4))
    speculative = reader.submit(lambda: rows_of((0, 1), (1, 1), (0, 2), (1, 2)))
    right = rows_of((1, 2), (0, 1), (0, 7), (1, 1))

    tokens = reader.tokens(reader.submit(lambda: right, speculative=speculative))

    assert (tokens == read_windows(domains, right)).all()
    assert read == ([1, 2, 7], [1, 2])
    reader.close()


def test_a_failed_speculative_read_is_ignored(domains, reader):
    def exhausted():
        raise LookupError("no plan left")

    speculative = reader.submit(exhausted)
    tokens = reader.tokens(reader.submit(planned(3), speculative=speculative))
    assert (tokens == read_windows(domains, make_plan(3))).all()


def test_a_cancelled_speculative_read_is_ignored(domains, reader):
    reader.submit(lambda: time.sleep(0.05) or make_plan(0))
    speculative = reader.submit(planned(3))
    assert speculative.cancel()
    tokens = reader.tokens(reader.submit(planned(3), speculative=speculative))
    assert (tokens == read_windows(domains, make_plan(3))).all()
