import os

import numpy as np
import pytest

from megadga.data.manifest import read_manifest
from megadga.data.verify import DataFileWatcher, check_checksums, shard_files
from megadga.errors import ShardError
from tests.support.shards import open_sets, write_domain, write_sets

BIN = "train-00000.bin"


@pytest.fixture
def folder(tmp_path):
    return write_domain(tmp_path / "d0", seed=1)


def files(folder):
    return shard_files(folder, read_manifest(folder).splits["train"], name="domains/d0")


def rewrite(path):
    """Write other tokens in place: as many, and all of the vocabulary."""
    path.write_bytes(path.read_bytes()[2:] + path.read_bytes()[:2])
    later(path)


def later(path):
    """As if it had been written a second later: a clock may tick slowly."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_an_unchanged_file_is_not_read(folder):
    watch = DataFileWatcher(files(folder))
    watch.check()

    assert watch.changed_since(watch.stamps) == []
    assert sorted(watch.stamps) == [f"domains/d0/train-00000.{kind}" for kind in ("bin", "idx")]


@pytest.mark.parametrize("name", [BIN, "train-00000.idx"])
def test_a_file_that_is_rewritten_in_place_is_noticed(folder, name):
    watch = DataFileWatcher(files(folder))
    rewrite(folder / name)

    with pytest.raises(ShardError, match=f"{name}: changed since the run read it"):
        watch.check()


def test_a_file_that_is_only_touched_is_the_same(folder):
    watch = DataFileWatcher(files(folder))
    before = watch.stamps
    later(folder / BIN)
    watch.check()

    assert watch.stamps != before
    assert watch.changed_since(before) == [f"domains/d0/{BIN}"]
    check_checksums([files(folder)[name] for name in watch.changed_since(before)])


def test_a_removed_file_is_named(folder):
    watch = DataFileWatcher(files(folder))
    (folder / BIN).unlink()

    with pytest.raises(ShardError, match=f"{BIN}: expected a shard's file, found No such file"):
        watch.check()


def test_a_file_without_a_recorded_time_is_not_a_change(folder):
    assert DataFileWatcher(files(folder)).changed_since({}) == []


def test_reading_a_rewritten_shard_raises(tmp_path):
    write_sets(tmp_path, num_domains=1)
    (domain, *_), specific = open_sets(tmp_path)
    domain.windows(np.arange(3))
    rewrite(domain.folder / BIN)
    rewrite(specific.folder / BIN)

    for opened in (domain, specific):
        with pytest.raises(ShardError, match=f"{BIN}: expected the file as it was"):
            opened.windows(np.arange(3))


def test_reading_a_touched_shard_succeeds(tmp_path):
    write_sets(tmp_path, num_domains=1)
    (domain, *_), _ = open_sets(tmp_path)
    before = domain.windows(np.arange(3))
    later(domain.folder / BIN)

    assert (domain.windows(np.arange(3)) == before).all()
