import struct
from itertools import accumulate, chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data import documents as module
from megadga.data.documents import check_index, document_at, read_documents, token_bounds
from megadga.data.files import Problems
from megadga.data.indexed import (
    HEADER,
    IndexedShard,
    ShardWriter,
    best_dtype,
    ids_path,
    index_path,
    tokens_path,
)
from megadga.errors import ShardError
from tests.support.raw_shards import overwrite, write_raw_shard

SHARDS = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=3), max_size=8)
"""Documents made of sentences of tokens, any of them empty."""


@pytest.fixture(params=[(2, 3), (1, 1), (1 << 16, 1 << 22)], ids=["small", "single", "default"])
def chunks(request, monkeypatch):
    """Chunks so small that even these shards have many, and those of every day."""
    monkeypatch.setattr(module, "CHUNK_ENTRIES", request.param[0])
    monkeypatch.setattr(module, "CHUNK_TOKENS", request.param[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("documents")


def open_raw(folder, documents) -> IndexedShard:
    sentences = list(chain.from_iterable(documents))
    bounds = [0, *accumulate(map(len, documents))]
    return IndexedShard.open(write_raw_shard(folder / "raw", sentences, bounds))


@given(documents=SHARDS)
@pytest.mark.usefixtures("chunks")
def test_documents_come_whole_and_in_order(folder, documents):
    shard = open_raw(folder, documents)
    batches = list(read_documents(shard, ids=False))
    lengths = list(chain.from_iterable(batch.lengths.tolist() for batch in batches))
    tokens = list(chain.from_iterable(batch.tokens.tolist() for batch in batches))
    whole = [list(chain.from_iterable(document)) for document in documents]
    assert lengths == list(map(len, whole))
    assert tokens == list(chain.from_iterable(whole))
    assert [document_at(shard, i).tolist() for i in range(len(whole))] == whole


@given(documents=SHARDS)
@pytest.mark.usefixtures("chunks")
def test_its_index_is_sound(folder, documents):
    problems = Problems()
    assert check_index(open_raw(folder, documents), problems)
    assert problems.lines == ()


@given(documents=SHARDS)
@pytest.mark.usefixtures("chunks")
def test_a_batch_is_bounded_or_one_document(folder, documents):
    for batch in read_documents(open_raw(folder, documents), ids=False):
        assert batch.tokens.size <= module.CHUNK_TOKENS or batch.lengths.size == 1
        assert batch.lengths.size <= module.CHUNK_ENTRIES


@given(documents=SHARDS)
@pytest.mark.usefixtures("chunks")
def test_consecutive_bounds_share_a_position(folder, documents):
    found = list(token_bounds(open_raw(folder, documents)))
    for before, after in pairwise(found):
        assert before[-1] == after[0]
    assert sum(bounds.size - 1 for bounds in found) == len(documents)


def write_with_ids(prefix, count):
    with ShardWriter(prefix, best_dtype(100), ids=True) as writer:
        for index in range(count):
            writer.add_document(np.arange(index + 1), f"page\n{index} é")
    return IndexedShard.open(prefix)


@pytest.mark.usefixtures("chunks")
def test_every_document_keeps_its_id(tmp_path):
    shard = write_with_ids(tmp_path / "a", 7)
    batches = list(read_documents(shard, ids=True))
    assert [len(batch.ids) for batch in batches] == [batch.lengths.size for batch in batches]
    assert [one for batch in batches for one in batch.ids] == [f"page\n{i} é" for i in range(7)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"a"\n', "expected 2 ids, found 1"),
        (b'"a"\n"b"\n"c"\n', "expected 2 ids, found more"),
        (b'"a"\n7\n', "line 2: expected a JSON string, found int"),
        (b'"a"\n{\n', "line 2: expected a JSON string, found Expecting"),
        (b'"a"\n\xff\n', "line 2: expected a JSON string, found 'utf-8' codec"),
        (b'"a"\n' + b"[" * 100_000, "line 2: expected a JSON string, found "),
        (b'"a"\n"b"', "line 2: expected a whole line, found no end of it"),
        (None, "expected documents' ids, found No such file"),
    ],
)
def test_ids_that_are_not_the_documents_are_refused(tmp_path, content, message):
    shard = write_with_ids(tmp_path / "a", 2)
    path = ids_path(shard.prefix)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ShardError, match=f"^{path}: {message}"):
        list(read_documents(shard, ids=True))


def test_a_part_of_a_batch_has_only_its_own_documents(tmp_path):
    (batch,) = read_documents(write_with_ids(tmp_path / "a", 4), ids=True)
    part = batch.part(1, 3)
    assert part.tokens.tolist() == [0, 1, 0, 1, 2]
    assert part.lengths.tolist() == [2, 3]
    assert part.ids == ("page\n1 é", "page\n2 é")


@pytest.fixture
def shard(tmp_path) -> IndexedShard:
    """Six sentences of one token each in three documents of two."""
    sentences = [[token] for token in range(6)]
    return IndexedShard.open(write_raw_shard(tmp_path / "web", sentences, [0, 2, 4, 6]))


LENGTHS, POINTERS, BOUNDS = HEADER.size, HEADER.size + 24, HEADER.size + 72


def misplaced(sentence, expected, found, length):
    return (
        f"sentence {sentence}: expected byte offset {expected} and a length >= 0, "
        f"found {found} and {length}"
    )


def disordered(bound, low, high, found):
    return f"document bound {bound}: expected a sentence in [{low}, {high}], found {found}"


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize(
    ("offset", "layout", "value", "lines"),
    [
        (LENGTHS + 4, "<i", 3, [misplaced(2, 8, 4, 1)]),
        (LENGTHS + 4, "<i", -1, [misplaced(1, 2, 2, -1), misplaced(2, 0, 4, 1)]),
        (POINTERS, "<q", 2, [misplaced(0, 0, 2, 1)]),
        (POINTERS + 16, "<q", 2**63 - 1, [misplaced(2, 4, 2**63 - 1, 1)]),
        (BOUNDS, "<q", 1, [disordered(0, 0, 0, 1)]),
        (BOUNDS + 8, "<q", 7, [disordered(1, 0, 6, 7)]),
        (BOUNDS + 16, "<q", 1, [disordered(2, 2, 6, 1)]),
        (BOUNDS + 24, "<q", 5, [disordered(3, 6, 6, 5)]),
    ],
)
def test_damage_is_found_where_it_is(shard, offset, layout, value, lines):
    path = index_path(shard.prefix)
    overwrite(path, offset, struct.pack(layout, value))
    problems = Problems()
    assert not check_index(shard, problems)
    assert list(problems.lines) == [f"{path}: {line}" for line in lines]


@pytest.mark.parametrize("path", [index_path, tokens_path])
def test_a_file_that_is_cut_or_gone_meanwhile_is_refused(shard, path):
    file = path(shard.prefix)
    file.write_bytes(b"")
    with pytest.raises(ShardError, match=f"^{file}: expected .*, found 0"):
        list(read_documents(shard, ids=False))
    file.unlink()
    with pytest.raises(ShardError, match=f"^{file}: expected .*, found No such file"):
        list(read_documents(shard, ids=False))
