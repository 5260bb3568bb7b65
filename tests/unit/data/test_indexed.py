import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.indexed import HEADER, MAGIC, IndexedShard, ShardWriter, best_dtype
from megadga.errors import ShardError


def write_shard(prefix: Path, documents, *, vocab_size=50_000) -> Path:
    with ShardWriter(prefix, best_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document(np.asarray(document))
    return prefix


@pytest.fixture
def prefix(tmp_path) -> Path:
    return write_shard(tmp_path / "train-00000", [[5, 6, 7], [8], [9, 10]])


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@given(
    st.lists(st.lists(st.integers(0, 69_999), min_size=1, max_size=20), max_size=12),
    st.sampled_from([65_536, 70_000]),
)
def test_documents_round_trip(tmp_path_factory, documents, vocab_size):
    documents = [[token % vocab_size for token in document] for document in documents]
    folder = tmp_path_factory.mktemp("shard")
    shard = IndexedShard.open(write_shard(folder / "a.b", documents, vocab_size=vocab_size))
    assert [shard.document(i).tolist() for i in range(shard.num_documents)] == documents
    assert shard.tokens.tolist() == list(chain.from_iterable(documents))
    assert shard.num_tokens == sum(map(len, documents))


def test_every_id_of_a_16_bit_vocabulary_takes_two_bytes():
    assert best_dtype(65_536) == np.uint16
    assert best_dtype(65_537) == np.int32


def test_tokens_cannot_be_written_to(prefix):
    with pytest.raises(ValueError, match="read-only"):
        IndexedShard.open(prefix).tokens[0] = 1


def test_a_document_that_does_not_exist_is_refused(prefix):
    with pytest.raises(IndexError, match=r"0 <= index < 3, found -1"):
        IndexedShard.open(prefix).document(-1)


def test_a_truncated_bin_is_refused_with_both_sizes(prefix):
    tokens = prefix.with_name("train-00000.bin")
    tokens.write_bytes(tokens.read_bytes()[:-3])
    with pytest.raises(ShardError) as caught:
        IndexedShard.open(prefix)
    assert str(caught.value) == f"{tokens}: expected 12 bytes by its index, found 9"


def test_a_bin_truncated_after_opening_is_refused_before_it_is_mapped(prefix):
    shard = IndexedShard.open(prefix)
    prefix.with_name("train-00000.bin").write_bytes(b"")
    with pytest.raises(ShardError, match="expected 12 bytes by its index, found 0"):
        _ = shard.tokens


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_is_refused_by_name(prefix, suffix):
    missing = prefix.with_name(prefix.name + suffix)
    missing.unlink()
    with pytest.raises(ShardError, match=f"{missing}: expected .*, found No such file"):
        IndexedShard.open(prefix)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"MMIDIDY", r"expected the magic b'MMIDIDX\\x00\\x00', found b'MMIDIDY"),
        (9, struct.pack("<Q", 2), "expected version 1, found 2"),
        (17, b"\x07", r"expected a dtype code among 1 \(uint8\), .*, found 7"),
        (18, struct.pack("<Q", 4), r"expected 114 bytes for 4 sentences .*, found 102"),
        (26, struct.pack("<Q", 2**63), r"document bounds \(at least 1\), found 102"),
        (26, struct.pack("<Q", 0), r"0 document bounds \(at least 1\), found 102"),
        (HEADER.size + 8, struct.pack("<i", -2), r"last sentence: .*, found 8 and -2"),
        (HEADER.size + 28, struct.pack("<q", 7), r"last sentence: .*, found 7 and 2"),
    ],
)
def test_a_damaged_header_is_refused_with_expected_and_found(prefix, offset, content, message):
    index = prefix.with_name("train-00000.idx")
    overwrite(index, offset, content)
    with pytest.raises(ShardError, match=f"^{index}: .*{message}"):
        IndexedShard.open(prefix)


def test_a_header_cut_short_is_refused(prefix):
    prefix.with_name("train-00000.idx").write_bytes(MAGIC)
    with pytest.raises(ShardError, match="expected a header of 34 bytes, found 9"):
        IndexedShard.open(prefix)


def test_a_gap_between_sentences_is_refused_when_the_lengths_are_read(prefix):
    overwrite(prefix.with_name("train-00000.idx"), HEADER.size + 12 + 8, struct.pack("<q", 4))
    shard = IndexedShard.open(prefix)
    with pytest.raises(ShardError, match="sentence 1: expected byte offset 6, found 4"):
        _ = shard.lengths


def test_document_bounds_out_of_order_are_refused(prefix):
    overwrite(prefix.with_name("train-00000.idx"), HEADER.size + 36 + 8, struct.pack("<q", 9))
    shard = IndexedShard.open(prefix)
    with pytest.raises(ShardError, match="expected document bounds that rise from 0 to 3"):
        _ = shard.document_bounds
