from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.domain import Domain
from megadga.data.folder import DomainSource, open_domain
from megadga.data.indexed import IndexedShard, ShardWriter, best_dtype
from megadga.data.stream import TokenStream
from megadga.errors import ShardError
from tests.support.streams import IDENTITY, counting_domain


def open_counting(folder, lengths, *, sequence_length, shard_tokens=1 << 20) -> Domain:
    counting_domain(folder, lengths, shard_tokens=shard_tokens)
    return open_domain(
        DomainSource("counting", folder), split="train", sequence_length=sequence_length
    )


def whole(stream: TokenStream, *, sequence_length) -> Domain:
    return Domain("whole", stream, 0, stream.num_tokens, stream.num_documents, sequence_length)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    sequence_length=st.integers(1, 20),
    shard_tokens=st.integers(3, 40),
    data=st.data(),
)
def test_a_window_is_its_slice_of_the_stream_for_any_shard_boundaries(
    tmp_path_factory, lengths, sequence_length, shard_tokens, data
):
    lengths = [*lengths, sequence_length]  # at least one window
    domain = open_counting(
        tmp_path_factory.mktemp("domains") / "d",
        lengths,
        sequence_length=sequence_length,
        shard_tokens=shard_tokens,
    )
    order = data.draw(st.lists(st.integers(0, domain.num_sequences - 1), max_size=8))
    windows = domain.windows(np.array(order, dtype=np.int64))
    expected = [range(j * sequence_length, (j + 1) * sequence_length + 1) for j in order]
    assert windows.shape == (len(order), sequence_length + 1)
    assert windows.dtype == np.int64
    assert windows.tolist() == [list(window) for window in expected]


@pytest.mark.parametrize(("num_tokens", "expected"), [(9, 2), (12, 2), (13, 3)])
def test_a_window_includes_its_last_target(tmp_path, num_tokens, expected):
    domain = open_counting(tmp_path / "d", [num_tokens], sequence_length=4)
    assert domain.num_sequences == expected


def test_a_domain_reports_its_counts(tmp_path):
    domain = open_counting(tmp_path / "d", [5, 6, 7], sequence_length=4, shard_tokens=6)
    assert (domain.name, domain.num_documents, domain.num_tokens) == ("counting", 3, 18)


def test_a_range_may_span_shards(tmp_path):
    domain = open_counting(tmp_path / "d", [5, 6, 7], sequence_length=4, shard_tokens=6)
    for start, stop in ((0, 18), (3, 12), (4, 5), (17, 18)):
        assert domain.tokens(start, stop).tolist() == list(range(start, stop))


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_never_wraps(tmp_path, index):
    domain = open_counting(tmp_path / "d", [13], sequence_length=4)
    with pytest.raises(IndexError, match=r"expected windows in \[0, 3\)"):
        domain.windows(np.array([0, index]))


def test_an_id_outside_the_vocabulary_is_refused_by_file_and_offset(tmp_path):
    domain = open_counting(tmp_path / "d", [6, 7], sequence_length=4, shard_tokens=6)
    tokens = tmp_path / "d" / "train-00001.bin"
    content = np.fromfile(tokens, dtype=np.uint16)
    content[3] = 50_000
    tokens.write_bytes(content.tobytes())
    assert domain.windows(np.array([0])).tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(ShardError) as caught:
        domain.windows(np.array([0, 2]))
    assert str(caught.value) == f"{tokens}: token 3: expected an id in [0, 50000), found 50000"


def test_reading_many_shards_keeps_no_file_open(tmp_path):
    domain = open_counting(tmp_path / "d", [3] * 200, sequence_length=4, shard_tokens=3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    windows = domain.windows(np.arange(domain.num_sequences))
    assert windows[:, 0].tolist() == list(range(0, 4 * domain.num_sequences, 4))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_bin_cut_or_removed_after_opening_is_refused(tmp_path):
    domain = open_counting(tmp_path / "d", [13], sequence_length=4)
    tokens = tmp_path / "d" / "train-00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:20])
    with pytest.raises(ShardError, match=f"{tokens}: expected 10 bytes at 16, found 4"):
        domain.windows(np.array([0, 2]))
    tokens.unlink()
    with pytest.raises(
        ShardError, match=f"{tokens}: expected a shard's tokens, found No such file"
    ):
        domain.windows(np.array([0]))


def test_empty_shards_are_skipped(tmp_path):
    prefixes = [tmp_path / name for name in "abcde"]
    for prefix, tokens in zip(prefixes, ([], [0, 1, 2], [], [3, 4, 5, 6], []), strict=True):
        with ShardWriter(prefix, best_dtype(100)) as writer:
            for token in tokens:
                writer.add_document(np.array([token]))
    shards = [IndexedShard.open(prefix) for prefix in prefixes]
    domain = whole(TokenStream(tmp_path, shards, IDENTITY), sequence_length=2)
    assert domain.windows(np.arange(3)).tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


def test_neighbouring_windows_share_one_token(tmp_path):
    domain = open_counting(tmp_path / "d", [30], sequence_length=7)
    windows = domain.windows(np.arange(domain.num_sequences))
    assert all(one[-1] == other[0] for one, other in pairwise(windows))


def test_a_domain_without_a_window_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"part: expected a range inside \[0, 0\), found \[0, 9\)"
    ):
        Domain("part", TokenStream(tmp_path, (), IDENTITY), 0, 9, 1, sequence_length=7)
    with pytest.raises(ValueError, match="whole: expected at least 8 >= 2 tokens, found 0"):
        whole(TokenStream(tmp_path, (), IDENTITY), sequence_length=7)


def test_all_targets_of_a_window_are_counted(tmp_path):
    domain = open_counting(tmp_path / "d", [30], sequence_length=7)
    assert domain.num_targets(np.array([0, 3])).tolist() == [7, 7]
