from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ShardError
from megadga.shards.domain import Domain
from megadga.shards.folder import DomainSource, open_domain
from megadga.shards.maps import TokenMaps
from tests.support.streams import counting_domain


def open_counting(folder, lengths, *, sequence_length, shard_tokens=1 << 20, maps=None) -> Domain:
    counting_domain(folder, lengths, shard_tokens=shard_tokens)
    return open_domain(
        DomainSource("counting", folder), split="train", sequence_length=sequence_length, maps=maps
    )


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    sequence_length=st.integers(1, 20),
    shard_tokens=st.integers(1, 40),
    data=st.data(),
)
def test_a_window_is_its_slice_of_the_stream_however_shards_are_cut(
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
def test_a_window_needs_its_last_target_too(tmp_path, num_tokens, expected):
    domain = open_counting(tmp_path / "d", [num_tokens], sequence_length=4)
    assert domain.num_sequences == expected


def test_a_domain_states_what_it_holds(tmp_path):
    domain = open_counting(tmp_path / "d", [5, 6, 7], sequence_length=4, shard_tokens=6)
    assert (domain.name, domain.num_documents, domain.num_tokens) == ("counting", 3, 18)


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


def test_open_files_stay_bounded_with_many_shards(tmp_path):
    maps = TokenMaps(limit=16)
    domain = open_counting(
        tmp_path / "d", [3] * 200, sequence_length=4, shard_tokens=3, maps=maps
    )
    assert len(maps) == 0
    windows = domain.windows(np.arange(domain.num_sequences))
    assert windows[:, 0].tolist() == list(range(0, 4 * domain.num_sequences, 4))
    assert len(maps) == 16


def test_the_least_recently_used_map_is_closed_first(tmp_path):
    class Opened:
        def __init__(self, prefix):
            self.prefix = prefix
            self.times = 0

        @property
        def tokens(self):
            self.times += 1
            return np.arange(3)

    first, second, third = shards = [Opened(tmp_path / name) for name in "abc"]
    maps = TokenMaps(limit=2)
    for shard in (first, second, first, third, first, second):
        maps.tokens(shard)  # pyright: ignore[reportArgumentType]
    assert [shard.times for shard in shards] == [1, 2, 1]


def test_neighbouring_windows_share_one_token(tmp_path):
    domain = open_counting(tmp_path / "d", [30], sequence_length=7)
    windows = domain.windows(np.arange(domain.num_sequences))
    assert all(one[-1] == other[0] for one, other in pairwise(windows))


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="limit: expected at least 1, found 0"):
        TokenMaps(limit=0)
    domain = open_counting(tmp_path / "d", [30], sequence_length=7)
    with pytest.raises(ValueError, match="counting: expected at least 8 >= 2 tokens, found 0"):
        Domain("counting", tmp_path, (), domain.tokenizer, sequence_length=7, maps=TokenMaps())
