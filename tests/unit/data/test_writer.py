import hashlib

import numpy as np
import pytest

from megadga.data.create import create_domain
from megadga.data.files import atomic_write
from megadga.data.indexed import IndexedShard, ShardWriter, best_dtype
from megadga.data.manifest import read_manifest
from megadga.errors import ShardError
from tests.support.streams import IDENTITY, counting_documents


class InterruptionError(Exception):
    pass


def write_half_a_shard(prefix):
    with ShardWriter(prefix, best_dtype(100)) as writer:
        writer.add_document(np.array([1, 2]))
        raise InterruptionError


def write_half_a_file(path):
    with atomic_write(path) as file:
        file.write(b"new")
        raise InterruptionError


def test_the_entry_describes_the_files_on_disk(tmp_path):
    with ShardWriter(tmp_path / "train-00000", best_dtype(70_000)) as writer:
        writer.add_document(np.array([3, 69_999, 2]))
        writer.add_document(np.array([2], dtype=np.uint16))
    entry = writer.entry
    assert (entry.file, entry.documents, entry.tokens) == ("train-00000", 2, 4)
    assert entry.max_token == 69_999
    for suffix, checksum in ((".bin", entry.bin_sha256), (".idx", entry.idx_sha256)):
        content = (tmp_path / f"train-00000{suffix}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == checksum


def test_an_interrupted_shard_leaves_no_file(tmp_path):
    with pytest.raises(InterruptionError):
        write_half_a_shard(tmp_path / "train-00000")
    assert list(tmp_path.iterdir()) == []


def test_neither_file_has_its_name_while_the_shard_is_being_written(tmp_path):
    with ShardWriter(tmp_path / "train-00000", best_dtype(100)) as writer:
        writer.add_document(np.array([1, 2]))
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {"train-00000.bin.partial", "train-00000.idx.partial"}


def test_an_interrupted_replacement_keeps_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(InterruptionError):
        write_half_a_file(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], r"expected shape \(n,\) with n >= 1, found \(0,\)"),
        ([[1, 2]], r"found \(1, 2\)"),
        ([1, -1], r"expected ids in \[0, 65535\], found -1 to 1"),
        ([1, 65_536], r"expected ids in \[0, 65535\], found 1 to 65536"),
    ],
)
def test_an_invalid_document_is_refused(tmp_path, tokens, message):
    with (
        pytest.raises(ValueError, match=message),
        ShardWriter(tmp_path / "train-00000", best_dtype(100)) as writer,
    ):
        writer.add_document(np.array(tokens, dtype=np.int64))


def test_a_domain_is_cut_into_shards_at_document_ends(tmp_path):
    documents = counting_documents([4, 4, 4, 9, 1])
    manifest = create_domain(tmp_path / "d", IDENTITY, {"train": documents}, shard_tokens=8)
    entries = manifest.splits["train"]
    assert [(entry.file, entry.documents, entry.tokens) for entry in entries] == [
        ("train-00000", 2, 8),
        ("train-00001", 2, 13),
        ("train-00002", 1, 1),
    ]
    assert read_manifest(tmp_path / "d") == manifest
    shards = [IndexedShard.open(tmp_path / "d" / entry.file) for entry in entries]
    assert np.concatenate([shard.tokens for shard in shards]).tolist() == list(range(22))


def test_a_split_without_documents_is_written_as_such(tmp_path):
    manifest = create_domain(
        tmp_path / "d", IDENTITY, {"train": counting_documents([3]), "valid": []}
    )
    assert manifest.splits["valid"] == ()
    assert (manifest.num_documents("train"), manifest.num_documents("valid")) == (1, 0)
    assert (manifest.num_tokens("train"), manifest.num_tokens("test")) == (3, 0)


def test_a_domain_that_exists_is_never_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(ShardError, match=f"{tmp_path / 'd'}: expected no folder of this name"):
        create_domain(tmp_path / "d", IDENTITY, {"train": counting_documents([3])})


def test_an_interrupted_domain_leaves_nothing(tmp_path):
    def interrupted():
        yield np.array([1, 2])
        raise InterruptionError

    with pytest.raises(InterruptionError):
        create_domain(tmp_path / "d", IDENTITY, {"train": interrupted()})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_attempt_left_is_replaced(tmp_path):
    left = tmp_path / ".d.partial"
    left.mkdir()
    (left / "train-00000.bin").write_bytes(b"half")
    create_domain(tmp_path / "d", IDENTITY, {"valid": counting_documents([3])})
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "manifest.json",
        "valid-00000.bin",
        "valid-00000.idx",
    }
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match=f"{tmp_path / 'file' / 'd'}: expected to write it"):
        create_domain(tmp_path / "file" / "d", IDENTITY, {"train": counting_documents([3])})
