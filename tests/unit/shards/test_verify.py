import numpy as np
import pytest

from megadga.errors import ShardError
from megadga.shards.manifest import read_manifest
from megadga.shards.verify import measure_shard, verify_domain
from tests.support.streams import counting_domain


@pytest.fixture
def folder(tmp_path):
    return counting_domain(tmp_path / "d", [6, 7, 8], shard_tokens=10)


def test_a_shard_measures_as_its_writer_said(folder):
    for entry in read_manifest(folder).splits["train"]:
        assert measure_shard(folder / entry.file) == entry


def test_an_intact_domain_passes(folder):
    verify_domain(folder)


def test_one_changed_token_is_found(folder):
    tokens = folder / "train-00001.bin"
    content = np.fromfile(tokens, dtype=np.uint16)
    content[0] ^= 1
    tokens.write_bytes(content.tobytes())
    with pytest.raises(ShardError, match=r"train-00001: bin_sha256: expected .* by train of "):
        verify_domain(folder)
