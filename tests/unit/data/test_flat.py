"""Flat files of token ids, taken apart at EOD."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data import flat
from megadga.data.documents import read_documents
from megadga.data.flat import FLAT_TYPES, convert_flat, open_flat
from megadga.data.folder import DomainSource, open_shards
from megadga.data.verify import plan_checks, verify_shard
from megadga.errors import ShardError
from tests.support.streams import IDENTITY

EOD = IDENTITY.eod
UINT16, UINT32 = FLAT_TYPES["uint16"], FLAT_TYPES["uint32"]


def write_flat(path, ids, dtype=UINT16):
    np.array(ids, dtype=dtype).tofile(path)
    return open_flat(path, dtype)


def documents_of(folder, manifest, split="train") -> list[list[int]]:
    shards = open_shards(DomainSource("d", folder), manifest, split)
    return [
        part.tolist()
        for shard in shards
        for batch in read_documents(shard, ids=False)
        for part in np.split(batch.tokens, np.cumsum(batch.lengths)[:-1])
    ]


@given(
    files=st.lists(
        st.lists(st.sampled_from([EOD, EOD + 1, 49_999]), min_size=1, max_size=30).filter(
            lambda ids: EOD in ids
        ),
        min_size=1,
        max_size=3,
    ),
    dtype=st.sampled_from([UINT16, UINT32]),
    chunk=st.integers(1, 12),
)
def test_a_document_reaches_to_every_eod_and_no_id_is_lost(tmp_path_factory, files, dtype, chunk):
    folder = tmp_path_factory.mktemp("flat")
    opened = [write_flat(folder / f"{n}.bin", ids, dtype) for n, ids in enumerate(files)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "CHUNK_TOKENS", chunk)
        found = convert_flat({"train": opened}, folder / "out", IDENTITY, shard_tokens=20)

    expected: list[list[int]] = []
    for ids in files:
        ends = [0, *(place + 1 for place, token in enumerate(ids) if token == EOD), len(ids)]
        cut = [ids[a:b] for a, b in pairwise(ends)]
        expected += [part for part in cut if part]
    assert documents_of(folder / "out", found.manifest) == expected
    assert found.without_eod == sum(part[-1] != EOD for part in expected)
    plan = plan_checks(folder / "out")
    assert not any(verify_shard(check).problems for check in plan.shards)


def test_a_header_of_numpy_says_the_type(tmp_path):
    ids = [5, 6, EOD]
    np.save(tmp_path / "a.npy", np.array(ids, dtype=np.uint32))
    file = open_flat(tmp_path / "a.npy", None)
    assert (file.dtype, file.num_tokens) == (UINT32, 3)
    found = convert_flat({"train": [file]}, tmp_path / "out", IDENTITY)
    assert documents_of(tmp_path / "out", found.manifest) == [ids]
    with pytest.raises(ShardError, match="expected uint16 ids, found uint32 by its header"):
        open_flat(tmp_path / "a.npy", UINT16)


@pytest.mark.parametrize(
    ("content", "dtype", "message"),
    [
        (b"\1\0\2", UINT16, "expected ids of 2 bytes, at least one, found 3 bytes"),
        (b"\1\0\2\0\3\0", UINT32, "expected ids of 4 bytes, at least one, found 6 bytes"),
        (b"", UINT16, "expected ids of 2 bytes, at least one, found 0 bytes"),
        (b"\1\0", None, "expected a header of numpy, found none: name the type, uint16 or uint32"),
        (
            np.zeros((2, 2), np.uint16),
            None,
            "expected a one-dimensional array of ids",
        ),
        (np.zeros(2, np.float32), None, "expected uint16 or uint32 or int32 ids, found float32"),
    ],
)
def test_files_that_are_no_ids_are_refused(tmp_path, content, dtype, message):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ShardError) as caught:
        open_flat(path, dtype)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5, 50_000, EOD], "token 1: expected an id in [0, 50000), found 50000: is it the right"),
        ([5, 6, 7], f"expected EOD ({EOD}) after each document, found none in 3 tokens: is it"),
    ],
)
def test_ids_of_another_tokenizer_leave_nothing_behind(tmp_path, ids, message):
    file = write_flat(tmp_path / "a.bin", ids)
    with pytest.raises(ShardError) as caught:
        convert_flat({"train": [file]}, tmp_path / "out", IDENTITY)
    assert str(caught.value).startswith(f"{file.path}: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_document_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(flat, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(flat, "MAX_DOCUMENT_TOKENS", 10)
    file = write_flat(tmp_path / "a.bin", [EOD, *[EOD + 1] * 20, EOD])
    with pytest.raises(ShardError, match=r"token 8: expected EOD \(\d+\) within 10 tokens"):
        convert_flat({"train": [file]}, tmp_path / "out", IDENTITY)
