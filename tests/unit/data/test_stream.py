from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data import stream as stream_module
from megadga.data.indexed import IndexedShard, ShardWriter, TokenType
from megadga.data.stream import TokenStream
from megadga.errors import ShardError
from tests.support.opens import watched_opens
from tests.support.streams import IDENTITY

DTYPES = [np.dtype("<u2"), np.dtype("<i4")]


def open_stream(
    folder: Path, sizes: Sequence[int], dtypes: Sequence[TokenType] = ()
) -> TokenStream:
    """A stream over the ids 0, 1, 2, ... in shards of these sizes, some of them perhaps empty."""
    shards, start = [], 0
    for index, size in enumerate(sizes):
        dtype = dtypes[index] if dtypes else DTYPES[0]
        with ShardWriter(folder / f"s{index}", dtype) as writer:
            if size:
                writer.add_document(np.arange(start, start + size))
        shards.append(IndexedShard.open(folder / f"s{index}"))
        start += size
    return TokenStream(folder, shards, IDENTITY)


@given(st.data())
def test_every_row_is_its_slice_of_the_concatenation(tmp_path_factory, data):
    shards = st.tuples(st.integers(0, 12), st.sampled_from(DTYPES))
    sizes, dtypes = zip(*data.draw(st.lists(shards, min_size=1, max_size=8)), strict=True)
    stream = open_stream(tmp_path_factory.mktemp("stream"), sizes, dtypes)
    count = data.draw(st.integers(1, max(1, sum(sizes))))
    most = sum(sizes) - count
    starts = data.draw(st.lists(st.integers(0, most), max_size=10)) if most >= 0 else []
    rows = stream.gather(np.array(starts, dtype=np.int64), count)
    assert (rows.dtype, rows.shape) == (np.int64, (len(starts), count))
    # The id at a position is the position itself.
    assert rows.tolist() == [list(range(start, start + count)) for start in starts]
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, sum(sizes))] * 2)))
    assert stream.tokens(start, stop).tolist() == list(range(start, stop))


def test_a_long_range_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "MAX_TOKENS_PER_READ", 3)
    stream = open_stream(tmp_path, [7, 0, 6])
    assert stream.tokens(1, 13).tolist() == list(range(1, 13))


def test_tokens_come_as_they_are_stored(tmp_path):
    assert open_stream(tmp_path, [4]).tokens(1, 3).dtype == np.uint16


def test_each_shard_is_opened_once_and_again_for_rows_that_end_in_another(tmp_path):
    stream = open_stream(tmp_path, [10] * 50)
    with watched_opens() as paths:
        stream.gather(np.array([401, 12, 405, 15, 403]), 3)
    assert paths == [f"{tmp_path}/s1.bin", f"{tmp_path}/s40.bin"]
    with watched_opens() as paths:
        stream.gather(np.array([408, 401]), 3)
    assert paths == [f"{tmp_path}/s{index}.bin" for index in (40, 40, 41)]


@pytest.mark.parametrize("start", [-1, 18])
def test_a_row_that_leaves_the_stream_is_refused(tmp_path, start):
    stream = open_stream(tmp_path, [10, 10])
    with pytest.raises(IndexError, match=r"expected 3 tokens from positions in \[0, 17\]"):
        stream.gather(np.array([5, start]), 3)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 21)])
def test_a_range_outside_the_stream_is_refused(tmp_path, start, stop):
    stream = open_stream(tmp_path, [10, 10])
    with pytest.raises(IndexError, match="expected 0 <= start <= stop <= 20, found"):
        stream.tokens(start, stop)


@pytest.mark.parametrize("value", [-1, 50_000])
def test_an_id_outside_the_vocabulary_is_refused_by_file_and_offset(tmp_path, value):
    stream = open_stream(tmp_path, [10, 10], [np.dtype("<i4")] * 2)
    content = np.arange(10, 20, dtype=np.int32)
    content[4] = value
    content.tofile(tmp_path / "s1.bin")
    message = rf"^{tmp_path}/s1\.bin: token 4: expected an id in \[0, 50000\), found {value}$"
    with pytest.raises(ShardError, match=message):
        stream.gather(np.array([0, 9, 12]), 4)
    with pytest.raises(ShardError, match=message):
        stream.tokens(3, 15)
