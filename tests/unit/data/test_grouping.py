import hashlib
from dataclasses import replace

import numpy as np
import pytest

from megadga.data.manifest import Bounds, Grouping, read_grouping, read_manifest, write_grouping
from megadga.data.npz import write_arrays
from megadga.errors import ShardError
from tests.support.streams import grouped_folder

NAMES = ("c0", "Köln / 2", "empty")
TRAIN = {"c0": [3, 4], "Köln / 2": [5], "empty": []}


@pytest.fixture
def folder(tmp_path):
    valid = {"c0": [2], "Köln / 2": [], "empty": [6]}
    return grouped_folder(tmp_path / "d", {"train": TRAIN, "valid": valid})


def bounds(*tokens: int) -> Bounds:
    return Bounds(np.array(tokens), np.array(tokens))


def rewrite(folder, **changes):
    """Change arrays of ``domains.npz``, and return a manifest with the new checksum."""
    with np.load(folder / "domains.npz") as found:
        arrays = {**found, **changes}
    write_arrays(folder / "domains.npz", arrays)
    manifest = read_manifest(folder)
    assert manifest.grouping is not None
    content = (folder / "domains.npz").read_bytes()
    entry = replace(manifest.grouping, sha256=hashlib.sha256(content).hexdigest())
    return replace(manifest, grouping=entry)


def test_a_grouping_round_trips(folder):
    found = read_grouping(folder, read_manifest(folder))
    assert found.names == NAMES
    assert found.bounds["train"].tokens.tolist() == [0, 7, 12, 12]
    assert found.bounds["train"].documents.tolist() == [0, 2, 3, 3]
    assert found.bounds["valid"].tokens.tolist() == [0, 2, 2, 8]
    assert found.bounds["valid"].documents.tolist() == [0, 1, 1, 2]


def test_the_manifest_says_what_the_file_holds(folder):
    entry = read_manifest(folder).grouping
    assert entry is not None
    assert (entry.file, entry.domains) == ("domains.npz", 3)
    content = (folder / "domains.npz").read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("names", "train", "message"),
    [
        (("a", ""), bounds(0, 1, 2), "names: expected names of one line, found an empty or a"),
        (("a", "b\nc"), bounds(0, 1, 2), "names: expected names of one line"),
        (("a", "a"), bounds(0, 1, 2), "names: expected different ones, found 'a' 2 times"),
        (("a", "b"), bounds(0, 2), "train_tokens: expected 3 bounds of 2 domains, found .*2"),
        (("a", "b"), bounds(1, 1, 2), "train_tokens: expected bounds that rise from 0"),
        (("a", "b"), bounds(0, 3, 2), "train_tokens: expected bounds that rise from 0"),
        ((), bounds(0), "names: expected at least one, found none"),
    ],
)
def test_an_invalid_grouping_is_not_written(tmp_path, names, train, message):
    with pytest.raises(ValueError, match=message):
        write_grouping(tmp_path, Grouping(names, {"train": train}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": b"c0\nc1"}, "train_tokens: expected 3 bounds of 2 domains"),
        ({"names": b"c0\nc1\nc0"}, "names: expected different ones, found 'c0' 2 times"),
        ({"names": b"c0\n\xff\nc1"}, "'utf-8' codec can't decode byte 0xff"),
        ({"train_tokens": [0, 7, 6, 12]}, "train_tokens: expected bounds that rise from 0"),
        ({"train_tokens": [0, 7, 12, 13]}, "train_tokens: expected 12 by the manifest, found 13"),
        ({"valid_documents": [0, 1, 1, 1]}, "valid_documents: expected 2 by the manifest, fou"),
        ({"test_tokens": [0, 0, 0, 0]}, "expected the members .*, found .*test_tokens"),
    ],
)
def test_a_file_inconsistent_with_itself_or_the_manifest_is_refused(folder, changes, message):
    arrays = {
        key: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.array(value)
        for key, value in changes.items()
    }
    manifest = rewrite(folder, **arrays)
    with pytest.raises(ShardError, match=f"^{folder / 'domains.npz'}: {message}"):
        read_grouping(folder, manifest)


def test_another_number_of_domains_than_the_manifests_is_refused(folder):
    manifest = read_manifest(folder)
    assert manifest.grouping is not None
    manifest = replace(manifest, grouping=replace(manifest.grouping, domains=4))
    with pytest.raises(ShardError, match="domains: expected 4 by the manifest, found 3"):
        read_grouping(folder, manifest)


def test_a_changed_file_is_refused_by_its_checksum(folder):
    manifest = read_manifest(folder)
    rewrite(folder, train_tokens=np.array([0, 6, 12, 12]))
    with pytest.raises(ShardError, match=r"domains\.npz: checksum: expected \w{64} by the man"):
        read_grouping(folder, manifest)


def test_a_missing_file_is_refused(folder):
    (folder / "domains.npz").unlink()
    with pytest.raises(ShardError, match=r"domains\.npz: expected a grouping, found No such"):
        read_grouping(folder, read_manifest(folder))
